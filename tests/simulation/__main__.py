import sys, time, gc
from tests.simulation.world import simulate
import structlog

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=True)
n = int(sys.argv[1])
first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
t = time.process_time()
v = 0
bad = []
for seed in range(first, first + n):
    o = simulate(seed, trace=print if n == 1 else None)
    v += o.seconds
    if o.broken:
        bad.append(o)
    if seed % 50 == 0:
        gc.collect()
        gc.freeze()
d = time.process_time() - t
print(n, "schedules", round(d / n * 1000, 2), "ms each", round(v / n), "virtual s each", len(bad), "broken")
for o in bad[:10]:
    print(o.seed, o.broken)
