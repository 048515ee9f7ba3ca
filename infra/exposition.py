"""The metrics, as Prometheus reads them. No label ever names a tenant, a user or a key.

What is counted of requests is the whole installation's, since it began: any one process may be
scraped for it, and its restart is no reset. What is this process's own says so by `process`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from importlib.metadata import version
from socket import gethostname
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from domain.catalog import AnyEvent
from domain.events import Recorded
from read_api.endpoint_statistics import BUCKETS_MS, Calls, EndpointStatistics

SECOND_US = 1_000_000


class Log(Protocol):
    async def head(self) -> int: ...
    async def read_all(self, *, after: int, limit: int) -> list[Recorded[AnyEvent]]: ...


class Lag(Protocol):
    def position(self, projector: str) -> int: ...
    def parked_counts(self) -> Mapping[str, int]: ...


class Sources:
    """What metrics are made of.

    Args:
        relayed: Tells the position up to which the log is on Kafka; None if nobody copies it.
    """

    def __init__(
        self,
        statistics: EndpointStatistics,
        event_log: Log,
        lag: Lag,
        projectors: Iterable[str],
        relayed: Callable[[], int | None],
    ) -> None:
        self._statistics = statistics
        self._log = event_log
        self._lag = lag
        self._projectors = list(projectors)
        self._relayed = relayed

    async def written(self, streams: int) -> bytes:
        """Write the metrics of this moment; takes how many live streams this process has."""
        head = await self._log.head()
        positions = {name: self._lag.position(name) for name in self._projectors}
        lags = {name: await self._lag_s(at, head) for name, at in positions.items()}
        families = [
            *_of_requests(await self._statistics.all()),
            *_of_projectors(positions, lags, head, self._lag.parked_counts()),
            *_of_process(head, streams, self._relayed()),
        ]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Given(families))
        return generate_latest(registry)

    async def _lag_s(self, position: int, head: int) -> float:
        """Tell how old the first event is that a projector has not passed."""
        if position >= head:
            return 0.0
        waiting = await self._log.read_all(after=position, limit=1)
        now: datetime = self._statistics.now()
        ages = ((now - each.metadata.occurred_at).total_seconds() for each in waiting)
        return max(0.0, next(ages, 0.0))


class _Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_requests(rows: list[Calls]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "automatos_requests", "Requests answered, by all processes.", labels=["endpoint", "status"]
    )
    durations = HistogramMetricFamily(
        "automatos_request_duration_seconds",
        "Time to the end of the answer, by all processes.",
        labels=["endpoint"],
    )
    by_endpoint: dict[str, list[Calls]] = {}
    for calls in rows:
        requests.add_metric([calls.endpoint, str(calls.status)], calls.calls)
        by_endpoint.setdefault(calls.endpoint, []).append(calls)
    for endpoint, found in by_endpoint.items():
        total_s = sum(calls.total_us for calls in found) / SECOND_US
        durations.add_metric([endpoint], list(_cumulated(found)), total_s)
    return iter((requests, durations))


def _cumulated(found: list[Calls]) -> Iterator[tuple[str, float]]:
    bounds = [*(str(bound / 1_000) for bound in BUCKETS_MS), "+Inf"]
    passed = 0
    for number, bound in enumerate(bounds):
        passed += sum(calls.buckets[number] for calls in found)
        yield bound, passed


def _of_projectors(
    positions: Mapping[str, int], lags: Mapping[str, float], head: int, parked: Mapping[str, int]
) -> Iterator[Metric]:
    events = _gauge("automatos_projector_lag_events", "Events a projector is behind the log.")
    seconds = _gauge("automatos_projector_lag_seconds", "Age of the first event it lacks.")
    skipped = _gauge("automatos_projector_parked_workspaces", "Workspaces it skips.")
    for name, position in positions.items():
        events.add_metric([name], max(0, head - position))
        seconds.add_metric([name], lags[name])
        skipped.add_metric([name], parked.get(name, 0))
    return iter((events, seconds, skipped))


def _gauge(name: str, told: str, label: str = "projector") -> GaugeMetricFamily:
    return GaugeMetricFamily(name, told, labels=[label])


def _of_process(head: int, streams: int, relayed: int | None) -> Iterator[Metric]:
    process = f"{gethostname()}/{os.getpid()}"
    yield InfoMetricFamily("automatos_build", "This release.", {"version": version("automatos")})
    yield CounterMetricFamily("automatos_events_appended", "Events in the log.", head)
    is_open = _gauge("automatos_streams_open", "Live streams of one process.", "process")
    is_open.add_metric([process], streams)
    yield is_open
    if relayed is not None:
        lag = max(0, head - relayed)
        yield GaugeMetricFamily("automatos_relay_lag_events", "Events Kafka is behind.", lag)
