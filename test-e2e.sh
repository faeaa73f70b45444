#!/usr/bin/env bash
# One federated-learning round against a running stack, checked from end to end. See docs/guide.md; --help for options.
set -euo pipefail
CALLED_FROM=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

ENV_FILE=.env
STATE_DIR=.swashplate
IMAGE=local-registry:5000/fl-client-wasm:latest
TIMEOUT=60
WAY=

usage() {
    cat <<'HELP'
Usage: ./test-e2e.sh [OPTIONS]

Runs one round on a stack that is up (swashplate up, or docker compose up) and provisioned, and verifies its result.
Prints a line for each step; ends with exit status 1 and the reason at the first that fails.

  --up, --compose     which of the two runs; found out by default
  --image REF         the guest (default local-registry:5000/fl-client-wasm:latest; pushed there if it is missing)
  --timeout SECONDS   how long the round may take (default 60)
  --env-file FILE     where the client ids are (default .env)
  --state-dir DIR     the state folder of swashplate up (default .swashplate)

A service that demands a token (MANAGER_HTTP_TOKEN and the like) is sent the one in the environment or in the env file.
HELP
}

done_() { printf '\033[32m✓\033[0m %s\n' "$*"; }
fail() {
    printf '\033[31m✗\033[0m %s\n' "$*" >&2
    exit 1
}
if [ ! -t 1 ]; then
    done_() { printf '✓ %s\n' "$*"; }
    fail() { printf '✗ %s\n' "$*" >&2; exit 1; }
fi

absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$CALLED_FROM" "$1" ;; esac; }

while [ $# -gt 0 ]; do
    case "$1" in
        --up) WAY=up ;;
        --compose) WAY=compose ;;
        --image|--timeout|--env-file|--state-dir)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            case "$1" in
                --image) IMAGE=$2 ;;
                --timeout) TIMEOUT=$2 ;;
                --env-file) ENV_FILE=$(absolute "$2") ;;
                --state-dir) STATE_DIR=$(absolute "$2") ;;
            esac
            shift ;;
        -h|--help) usage; exit 0 ;;
        *) printf 'unknown option: %s\n' "$1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[[ $TIMEOUT =~ ^[1-9][0-9]*$ ]] || fail "--timeout must be a whole number of seconds, not '$TIMEOUT'"

# --- prerequisites

for program in curl python3; do
    command -v "$program" >/dev/null || fail "$program is not installed"
done
SWASHPLATE=$(command -v swashplate || true)
[ -n "$SWASHPLATE" ] || { [ ! -x .venv/bin/swashplate ] || SWASHPLATE=.venv/bin/swashplate; }
[ -r "$ENV_FILE" ] || fail "$ENV_FILE cannot be read; provision first: python3 provision/provision_smq.py"

# setting NAME: from the env file; of several lines the last that is not empty.
setting() {
    sed -nE "s/^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*=//p" "$ENV_FILE" |
        sed 's/[[:space:]]#.*//' | tr -d "\"' \r" | grep . | tail -1
}

# ask SERVICE ARGUMENTS: curl, with that service's token when it has one; the answer of a refusal is printed, too.
ask() {
    local name=${1^^} token
    name=${name//-/_}_HTTP_TOKEN
    token=${!name:-$(setting "$name" || true)}
    shift
    curl -sS --max-time 10 --fail-with-body "$@" --config - 2>&1 <<<"${token:+header = \"Authorization: Bearer $token\"}"
}

# json EXPRESSION: evaluates a Python expression on the JSON `found` from standard input.
json() { python3 -c 'import json, sys
found = json.load(sys.stdin)
print(eval(sys.argv[1]))' "$1"; }

NO_COMMAND="the command swashplate is not found; activate its virtual environment, such as . .venv/bin/activate"
STACK=
if [ -n "$SWASHPLATE" ] && [ "$WAY" != compose ]; then
    STACK=$("$SWASHPLATE" status --json --state-dir "$STATE_DIR" 2>/dev/null || true)
    [ -z "$STACK" ] || WAY=up
fi
if [ -z "$WAY" ] && [ -n "$(docker compose ps --quiet 2>/dev/null)" ]; then WAY=compose; fi
case "$WAY" in
    up)
        [ -n "$SWASHPLATE" ] || fail "$NO_COMMAND"
        [ -n "$STACK" ] || fail "no stack is running in $STATE_DIR; start one: swashplate up -d"
        url() { json "found['urls']['$1']" <<<"$STACK"; }
        logs() { "$SWASHPLATE" logs --state-dir "$STATE_DIR" "$@"; }
        ;;
    compose)
        docker compose version >/dev/null 2>&1 || fail "docker compose is not installed"
        [ -n "$(docker compose ps --quiet 2>/dev/null)" ] || fail "no stack is running here; start one: docker compose up -d"
        url() {
            case "$1" in
                manager) echo http://localhost:7070 ;;
                coordinator) echo http://localhost:8086 ;;
                model-registry) echo http://localhost:8084 ;;
                aggregator) echo http://localhost:8085 ;;
                data-store) echo http://localhost:8083 ;;
                proxy) echo http://localhost:9191 ;;
                oci-registry) echo http://localhost:5000 ;;
            esac
        }
        logs() { docker compose logs --no-log-prefix "$@"; }
        ;;
    *)
        [ -n "$SWASHPLATE" ] || fail "no stack of docker compose is running here, and $NO_COMMAND"
        fail "no stack is running here; start one: swashplate up -d, or docker compose up -d"
        ;;
esac
MANAGER=$(url manager) COORDINATOR=$(url coordinator) MODELS=$(url model-registry)
DATA=$(url data-store) REGISTRY=$(url oci-registry)
done_ "prerequisites: curl, python3, a stack run by $WAY"

# --- services

for service in manager coordinator model-registry aggregator data-store proxy oci-registry; do
    answer=$(curl -sS --max-time 10 -w '\n%{http_code}' "$(url $service)/health" 2>&1) ||
        fail "$service does not answer at $(url $service): ${answer%%$'\n'*}"
    [ "${answer##*$'\n'}" = 200 ] || fail "$service is not healthy: ${answer%$'\n'*}"
done
done_ "services: manager, coordinator, model-registry, aggregator, data-store, proxy and oci-registry are healthy"

# --- the guest

case "$IMAGE" in
    local-registry:5000/*|localhost:5000/*)
        name=${IMAGE#*/} reference=latest
        case "$name" in
            *@*) reference=${name#*@} name=${name%%@*} ;;
            *:*) reference=${name##*:} name=${name%:*} ;;
        esac
        if ask oci-registry "$REGISTRY/v2/$name/manifests/$reference" \
            -H 'Accept: application/vnd.oci.image.manifest.v1+json' >/dev/null; then
            done_ "guest: $IMAGE is in the registry"
        else
            if [ ! -f client_wasm/fl-client.wasm ]; then
                [ -x .venv/bin/python ] || fail "client_wasm/fl-client.wasm is missing, and there is no .venv to build it with"
                .venv/bin/python -m client_wasm build || fail "client_wasm/fl-client.wasm cannot be built; see above"
            fi
            if [ "$WAY" = up ]; then
                OCI_REGISTRY_HTTP_TOKEN=${OCI_REGISTRY_HTTP_TOKEN:-$(setting OCI_REGISTRY_HTTP_TOKEN || true)}
                export OCI_REGISTRY_HTTP_TOKEN
                said=$("$SWASHPLATE" push client_wasm/fl-client.wasm "${REGISTRY#http://}/$name:$reference" 2>&1) ||
                    fail "the guest cannot be pushed: $said"
            else
                said=$(docker compose run --rm --no-deps -T -v "$PWD/client_wasm:/workspace:ro" proxy \
                    swashplate push /workspace/fl-client.wasm "local-registry:5000/$name:$reference" 2>&1) ||
                    fail "the guest cannot be pushed: $said"
            fi
            done_ "guest: pushed as $IMAGE"
        fi
        ;;
    *) done_ "guest: $IMAGE, taken as it is" ;;
esac

# --- model 0

if ask model-registry "$MODELS/models/0" >/dev/null; then
    done_ "model: version 0 exists"
else
    said=$(ask model-registry -X POST "$MODELS/models" -H 'Content-Type: application/json' \
        -d '{"version": 0, "model": {"w": [0.0, 0.0, 0.0], "b": 0.0}}') || fail "model 0 cannot be created: $said"
    done_ "model: version 0 created"
fi
said=$(ask model-registry "$MODELS/models") || fail "the versions of the model cannot be read: $said"
NEWEST=$(json "max(found['versions'])" <<<"$said")

# --- participants

IDS=()
for key in PROPLET_CLIENT_ID PROPLET_2_CLIENT_ID PROPLET_3_CLIENT_ID; do
    id=$(setting "$key" || true)
    [ -n "$id" ] || fail "$key is not set in $ENV_FILE; provision first: python3 provision/provision_smq.py"
    IDS+=("$id")
done
said=$(ask manager "$MANAGER/proplets?status=active&limit=100") || fail "the manager's proplets cannot be read: $said"
ALIVE=$(json "' '.join(p['id'] for p in found['proplets'])" <<<"$said")
for id in "${IDS[@]}"; do
    case " $ALIVE " in
        *" $id "*) ;;
        *) fail "the manager hears nothing of proplet $id; recreate the services after provisioning, and see the proplet's log" ;;
    esac
done
done_ "participants: ${IDS[*]}"

# --- the round

ROUND="r-$(date +%s)-$$"
BODY=$(python3 - "$ROUND" "$NEWEST" "$TIMEOUT" "$IMAGE" "${IDS[@]}" <<'PYTHON'
import json, sys
round_id, version, timeout, image, *ids = sys.argv[1:]
print(json.dumps({
    "experiment_id": f"exp-{round_id}", "round_id": round_id, "model_ref": f"fl/models/global_model_v{version}",
    "participants": ids, "hyperparams": {"epochs": 1, "lr": 0.01, "batch_size": 16},
    "k_of_n": len(ids), "timeout_s": int(timeout), "task_wasm_image": image,
}))
PYTHON
)
said=$(ask manager --max-time 30 -X POST "$MANAGER/fl/experiments" -H 'Content-Type: application/json' -d "$BODY") ||
    fail "the experiment is refused: $said"
done_ "experiment: $ROUND from version $NEWEST, 3 of 3 within $TIMEOUT s"

ended=$((SECONDS + TIMEOUT + 10))
while :; do
    STATUS=$(ask coordinator --max-time 40 "$COORDINATOR/rounds/$ROUND/complete?wait=20" || true)
    state=$(json "found.get('status')" <<<"$STATUS" 2>/dev/null || true)
    case "$state" in
        completed) break ;;
        failed|cancelled) fail "round $ROUND is $state: $(json "found['error']" <<<"$STATUS")" ;;
    esac
    [ "$SECONDS" -lt "$ended" ] || fail "round $ROUND has not ended after $TIMEOUT s: $STATUS"
    sleep 1
done
done_ "round: $(json "found['num_updates']" <<<"$STATUS") updates, now version $(json "found['model_version']" <<<"$STATUS")"

# --- what came out

VERSION=$(json "found['model_version']" <<<"$STATUS")
[ "$VERSION" = $((NEWEST + 1)) ] || fail "the new version is $VERSION, not $((NEWEST + 1))"
MODEL=$(ask model-registry "$MODELS/models/$VERSION") || fail "model $VERSION cannot be read: $MODEL"
done_ "version: $VERSION follows $NEWEST and can be read"

[ "$(json "any(found['w'])" <<<"$MODEL")" = True ] || fail "every weight of model $VERSION is zero: $MODEL"
done_ "weights: not zero"

datasets=()
for id in "${IDS[@]}"; do
    dataset=$(ask data-store "$DATA/datasets/$id") || fail "the dataset of $id cannot be read: $dataset"
    [ "$(json "found['schema']" <<<"$dataset")" = fl-demo-dataset-v1 ] || fail "the dataset of $id has another schema"
    datasets+=("$(json "found['size']" <<<"$dataset")")
done

# The guests' own words about this round, from the proplets' logs.
said=$({ logs proplet; logs proplet-2; logs proplet-3; } | python3 /dev/fd/3 "$ROUND" "$MODEL" "${IDS[@]}" "${datasets[@]}" 3<<'PYTHON'
import json, math, sys

round_id, model, *rest = sys.argv[1:]
model, ids, sizes = json.loads(model), rest[:3], dict(zip(rest[:3], map(int, rest[3:])))
updates, loaded = {}, 0
for line in sys.stdin:
    if round_id not in line or not line.startswith("{"):
        continue
    said = json.loads(line)["msg"]
    if "DEBUG: Update payload" in said:
        update = json.loads(said[said.index("{"):])
        updates[update["proplet_id"]] = update
    loaded += "Loaded dataset with" in said
if missing := [i for i in ids if i not in updates]:
    sys.exit(f"the log of proplet {missing[0]} holds no update of round {round_id}")
for proplet, update in updates.items():
    if update["num_samples"] != sizes[proplet]:
        sys.exit(f"proplet {proplet} trained on {update['num_samples']} samples; its dataset has {sizes[proplet]}")
if loaded < len(ids):
    sys.exit(f"only {loaded} of {len(ids)} guests said that they loaded their dataset")
total = sum(u["num_samples"] for u in updates.values())
means = [
    math.fsum(u["num_samples"] * u["update"]["w"][i] for u in updates.values()) / total for i in range(len(model["w"]))
]
means.append(math.fsum(u["num_samples"] * u["update"]["b"] for u in updates.values()) / total)
worst = max(abs(mean - value) for mean, value in zip(means, [*model["w"], model["b"]]))
if worst > 1e-9:
    sys.exit(f"the model is not the weighted mean of its updates: off by {worst:g}")
print(f"weighted mean of {len(updates)} updates over {total} samples, to {worst:.1e}")
PYTHON
) 2>&1 || fail "$said"
done_ "aggregation: $said"
done_ "datasets: ${datasets[*]} samples, read from the local data store"
done_ "all good: $ROUND"
