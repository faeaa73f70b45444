// The federated learning guest in Go: one site's part of one round, and the same numbers as the guest in C.
//
// A WASI preview 1 command. Given: the variables ROUND_ID, PROPLET_ID, MODEL_URI, HYPERPARAMS, MODEL_DATA and
// DATASET_DATA; of what is too large for a variable, the files /in/model.json and /in/data/dataset.json.
// Exit code 0 means that the update, one JSON object, is on stdout; 1 that stderr says why there is none.
//
//	GOOS=wasip1 GOARCH=wasm go build -o fl-client.wasm fl-client.go
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"os"
	"strings"
)

type model struct {
	w []float64
	b float64
}

type sample struct {
	x []float64
	y float64
}

type hyperparams struct {
	epochs, batchSize, seed uint64
	lr                      float64
}

type metrics struct {
	LossBefore     float64 `json:"loss_before"`
	Loss           float64 `json:"loss"`
	AccuracyBefore float64 `json:"accuracy_before"`
	Accuracy       float64 `json:"accuracy"`
}

type update struct {
	RoundID      string         `json:"round_id"`
	PropletID    string         `json:"proplet_id"`
	BaseModelURI string         `json:"base_model_uri"`
	NumSamples   int            `json:"num_samples"`
	Metrics      metrics        `json:"metrics"`
	Update       map[string]any `json:"update"`
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "error: "+format+"\n", values...)
	os.Exit(1)
}

// The text of an input; nothing is made up in place of one that is missing.
func input(what, variable, path string) string {
	if text := os.Getenv(variable); text != "" {
		return text
	}
	text, err := os.ReadFile(path)
	if err != nil {
		fail("no %s: neither %s nor %s is there", what, variable, path)
	}
	return string(text)
}

// number refuses the null that encoding/json would read as 0.
type number float64

func (n *number) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return fmt.Errorf("expected a number, found null")
	}
	return json.Unmarshal(text, (*float64)(n))
}

func floats(numbers []number) []float64 {
	values := make([]float64, len(numbers))
	for i, n := range numbers {
		values[i] = float64(n)
	}
	return values
}

// An object's fields, by their exact names: encoding/json alone would take "W" for "w".
func fields(what, text string) map[string]json.RawMessage {
	var found map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &found); err != nil || found == nil {
		fail("%s: expected an object: %v", what, err)
	}
	return found
}

func field(what string, from map[string]json.RawMessage, name string, into any) {
	text, there := from[name]
	if !there || string(text) == "null" {
		fail("%s: %q is missing", what, name)
	}
	if err := json.Unmarshal(text, into); err != nil {
		fail("%s: %q: %v", what, name, err)
	}
}

func readModel(text string) model {
	var w []number
	var b number
	found := fields("model", text)
	field("model", found, "w", &w)
	field("model", found, "b", &b)
	return model{floats(w), float64(b)}
}

func readDataset(text string) []sample {
	found := fields("dataset", text)
	if schema, there := found["schema"]; there && string(schema) != `"fl-demo-dataset-v1"` {
		fail("dataset: the schema is not \"fl-demo-dataset-v1\"")
	}
	var rows []json.RawMessage
	field("dataset", found, "data", &rows)
	if len(rows) == 0 {
		fail("dataset: no samples")
	}
	samples := make([]sample, len(rows))
	for i, row := range rows {
		what := fmt.Sprintf("dataset: row %d", i)
		var x []number
		var y number
		of := fields(what, string(row))
		field(what, of, "x", &x)
		field(what, of, "y", &y)
		if y != 0 && y != 1 {
			fail("%s: label %g is neither 0 nor 1", what, float64(y))
		}
		samples[i] = sample{floats(x), float64(y)}
		if len(x) == 0 || len(x) != len(samples[0].x) {
			fail("%s has %d features, row 0 has %d", what, len(x), len(samples[0].x))
		}
	}
	if text, there := found["size"]; there {
		var size number
		if err := json.Unmarshal(text, &size); err != nil || size != number(len(rows)) {
			fail("dataset: \"size\" is %s, but there are %d samples", text, len(rows))
		}
	}
	return samples
}

func readHyperparams(text string) hyperparams {
	h := hyperparams{epochs: 1, batchSize: 16, seed: 0, lr: 0.01}
	if text == "" {
		return h
	}
	found := fields("hyperparams", text)
	whole := func(name string, least uint64, into *uint64) {
		if _, there := found[name]; !there {
			return
		}
		var value number
		field("hyperparams", found, name, &value)
		if value < number(least) || value > 1<<53-1 || value != number(uint64(value)) {
			fail("hyperparams: %q is %g, expected a whole number from %d to 2^53 - 1", name, float64(value), least)
		}
		*into = uint64(value)
	}
	whole("epochs", 1, &h.epochs)
	whole("batch_size", 1, &h.batchSize)
	whole("seed", 0, &h.seed)
	if _, there := found["lr"]; there {
		field("hyperparams", found, "lr", (*number)(&h.lr))
		if h.lr <= 0 {
			fail("hyperparams: \"lr\" is %g, expected a number above 0", h.lr)
		}
	}
	return h
}

// z = w . x + b, the log-odds of label 1.
func (m *model) logOdds(x []float64) float64 {
	z := m.b
	for i, w := range m.w {
		z += w * x[i]
	}
	return z
}

// p(y = 1 | x) = 1 / (1 + e^-z), in the form that cannot overflow. Bishop, PRML (2006), eq. 4.59
func sigmoid(z float64) float64 {
	e := math.Exp(-math.Abs(z))
	if z >= 0 {
		return 1 / (1 + e)
	}
	return e / (1 + e)
}

// The mean of -ln p(y | x) = max(z, 0) + ln(1 + e^-|z|) - y z (PRML eq. 4.90), and the share of right answers.
func (m *model) evaluate(samples []sample) (loss, accuracy float64) {
	for _, s := range samples {
		z := m.logOdds(s.x)
		loss += math.Max(z, 0) + math.Log1p(math.Exp(-math.Abs(z))) - s.y*z
		if (z >= 0) == (s.y == 1) {
			accuracy++
		}
	}
	n := float64(len(samples))
	return loss / n, accuracy / n
}

// SplitMix64. Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, fig. 16
type random uint64

func (r *random) next() uint64 {
	*r += 0x9E3779B97F4A7C15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// A number in [0, n). Lemire, "Fast random integer generation in an interval", ACM TOMACS 29 (2019), without rejection
func (r *random) below(n int) int {
	high, _ := bits.Mul64(r.next(), uint64(n))
	return int(high)
}

// Mini-batch SGD: w <- w - lr * mean((p - y) x), b <- b - lr * mean(p - y) over the rows of each batch. PRML eq. 4.91
func (m *model) train(samples []sample, h hyperparams) {
	batchSize := len(samples)
	if h.batchSize < uint64(batchSize) {
		batchSize = int(h.batchSize)
	}
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	slope := make([]float64, len(m.w))
	r := random(h.seed)
	for epoch := uint64(0); epoch < h.epochs; epoch++ {
		for i := len(order) - 1; i > 0; i-- { // Fisher-Yates. Knuth, TAOCP vol. 2, sec. 3.4.2, algorithm P
			j := r.below(i + 1)
			order[i], order[j] = order[j], order[i]
		}
		for from := 0; from < len(order); from += batchSize {
			batch := order[from:]
			if len(batch) > batchSize {
				batch = batch[:batchSize]
			}
			m.step(samples, batch, h.lr, slope)
		}
	}
}

func (m *model) step(samples []sample, batch []int, lr float64, slope []float64) {
	slopeB := 0.0
	for i := range slope {
		slope[i] = 0
	}
	for _, row := range batch {
		s := samples[row]
		wrong := sigmoid(m.logOdds(s.x)) - s.y
		for i, x := range s.x {
			slope[i] += wrong * x
		}
		slopeB += wrong
	}
	n := float64(len(batch))
	for i := range m.w {
		m.w[i] -= lr * (slope[i] / n)
	}
	m.b -= lr * (slopeB / n)
}

func shown(values []float64) string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = fmt.Sprintf("%f", value)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

func logModel(when string, m model) {
	fmt.Fprintf(os.Stderr, "DEBUG: %s - w: %s, b: %f\n", when, shown(m.w), m.b)
}

// JSON has no NaN or Infinity, and an average that contains one is lost: no update is better than such an update.
func checkFinite(m model, loss float64, when string) {
	for _, value := range append([]float64{m.b, loss}, m.w...) {
		if math.IsNaN(value) || math.IsInf(value, 0) {
			fail("the model or its loss is not finite %s training; lower \"lr\" or scale the features", when)
		}
	}
}

func compact(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		fail("%v", err)
	}
	return string(text)
}

func main() {
	u := update{RoundID: os.Getenv("ROUND_ID"), PropletID: os.Getenv("PROPLET_ID"), BaseModelURI: os.Getenv("MODEL_URI")}
	if u.RoundID == "" {
		fail("ROUND_ID is not set")
	}
	asked := map[string]string{"round_id": u.RoundID, "proplet_id": u.PropletID}
	fmt.Fprintf(os.Stderr, "TASK_REQUEST:%s\n", compact(asked))

	h := readHyperparams(os.Getenv("HYPERPARAMS"))
	m := readModel(input("model", "MODEL_DATA", "/in/model.json"))
	samples := readDataset(input("dataset", "DATASET_DATA", "/in/data/dataset.json"))
	if len(m.w) != len(samples[0].x) {
		fail("the model has %d weights, the dataset has %d features", len(m.w), len(samples[0].x))
	}
	fmt.Fprintf(os.Stderr, "Loaded dataset with %d samples from Local Data Store\n", len(samples))
	logModel("Initial model", m)
	fmt.Fprintf(os.Stderr, "DEBUG: First sample - x: %s, y: %.0f\n", shown(samples[0].x), samples[0].y)

	u.NumSamples = len(samples)
	u.Metrics.LossBefore, u.Metrics.AccuracyBefore = m.evaluate(samples)
	checkFinite(m, u.Metrics.LossBefore, "before")
	m.train(samples, h)
	u.Metrics.Loss, u.Metrics.Accuracy = m.evaluate(samples)
	checkFinite(m, u.Metrics.Loss, "after")
	logModel("Final model after training", m)

	u.Update = map[string]any{"w": m.w, "b": m.b}
	text := compact(u)
	fmt.Fprintf(os.Stderr, "DEBUG: Update payload: %s\nUPDATE_REQUEST:%s\n", text, text)
	if _, err := fmt.Println(text); err != nil {
		fail("stdout: the update could not be written: %v", err)
	}
}
