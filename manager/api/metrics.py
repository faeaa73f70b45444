"""Counters and gauges for Prometheus, read from the manager's rooms when they are asked for: the hot path pays nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manager.fleet.proplets import Proplets
from manager.latent.invocations import Invocations
from manager.state.ledger import Ledger
from manager.state.states import AttemptState, TaskState
from manager.work.attempts import Attempts
from manager.work.dispatch import Dispatch
from manager.work.load import Load

REQUESTS, LATENCY = "manager_http_requests", "manager_http_request_seconds"


class ManagerMetrics(Collector):
    def __init__(
        self,
        ledger: Ledger,
        proplets: Proplets,
        load: Load,
        dispatch: Dispatch,
        attempts: Attempts,
        invocations: Invocations,
    ) -> None:
        self._ledger = ledger
        self._proplets = proplets
        self._load = load
        self._dispatch = dispatch
        self._attempts = attempts
        self._invocations = invocations

    def collect(self) -> Iterator[Metric]:
        tasks = GaugeMetricFamily("manager_tasks", "Tasks that have not ended, by state", labels=["state"])
        states = Counter(task.state for task in self._ledger.active_tasks())
        for state in (TaskState.SCHEDULED, TaskState.RUNNING):
            tasks.add_metric([state.name.lower()], states[state])
        yield tasks
        attempts = GaugeMetricFamily("manager_attempts", "Attempts that have not ended, by state", labels=["state"])
        open_states = Counter(attempt.state for attempt in self._ledger.open_attempts())
        for each in (state for state in AttemptState if not state.ended):
            attempts.add_metric([each], open_states[each])
        yield attempts
        yield GaugeMetricFamily("manager_queue_length", "Attempts that wait for a proplet", self._dispatch.waiting)
        ended = CounterMetricFamily("manager_attempts_ended", "Attempts that ended, by outcome", labels=["outcome"])
        for outcome, count in sorted(self._attempts.ended.items()):
            ended.add_metric([outcome], count)
        yield ended
        yield from self._of_proplets()
        yield from self._of_invocations()

    def _of_proplets(self) -> Iterator[Metric]:
        known = self._proplets.list()
        alive = sum(map(self._proplets.alive, known))
        proplets = GaugeMetricFamily("manager_proplets", "Proplets that are known, by state", labels=["state"])
        proplets.add_metric(["alive"], alive)
        proplets.add_metric(["offline"], len(known) - alive)
        yield proplets
        cordoned = sum(each.cordoned for each in known)
        yield GaugeMetricFamily("manager_proplets_cordoned", "Proplets that are given nothing new", cordoned)

    def _of_invocations(self) -> Iterator[Metric]:
        waiting, running = self._invocations.counts()
        invocations = GaugeMetricFamily("manager_invocations", "Invocations that have not ended", labels=["state"])
        invocations.add_metric(["queued"], waiting)
        invocations.add_metric(["running"], running)
        yield invocations
        name, text = "manager_invocations_ended", "Invocations that ended, by outcome: completed, or the failure's code"
        ended = CounterMetricFamily(name, text, labels=["outcome"])
        for outcome, count in sorted(self._invocations.ended.items()):
            ended.add_metric([outcome], count)
        yield ended


class ContractMetrics(Collector):
    """What is counted of HTTP requests, once more under the names that Propeller's manager gives it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._reading = False

    def describe(self) -> list[Metric]:
        """Nothing that would have to be read to be known."""
        return []

    def collect(self) -> Iterator[Metric]:
        if self._reading:  # we are part of what we read
            return
        self._reading = True
        try:
            found = {metric.name: metric for metric in self._registry.collect() if metric.name in {REQUESTS, LATENCY}}
        finally:
            self._reading = False
        counts, microseconds = defaultdict[str, float](float), defaultdict[str, float](float)
        with suppress(KeyError):
            for sample in found[REQUESTS].samples:
                if sample.name.endswith("_total"):
                    counts[_method(sample.labels)] += sample.value
        with suppress(KeyError):
            for sample in found[LATENCY].samples:
                if sample.name.endswith("_sum"):
                    microseconds[_method(sample.labels)] += sample.value * 1e6
        # Neither is a family of a kind whose names Prometheus' library would leave as they are.
        count = Metric("manager_api_request_count", "Number of requests received.", "unknown")
        latency = Metric(
            "manager_api_request_latency_microseconds", "Total duration of requests in microseconds.", "summary"
        )
        for method, value in sorted(counts.items()):
            labels = {"method": method}
            count.add_sample("manager_api_request_count", labels, value)
            latency.add_sample("manager_api_request_latency_microseconds_count", labels, value)
            latency.add_sample("manager_api_request_latency_microseconds_sum", labels, microseconds[method])
        yield count
        yield latency


def _method(labels: dict[str, str]) -> str:
    return f"{labels['method']} {labels['route']}"
