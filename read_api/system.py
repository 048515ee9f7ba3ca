"""The original's pages of the system: how it is, what the machine does, which agents there are."""

from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.metadata import version

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency

from domain.agents import AGENT_TYPES
from read_api.agents import StatsBody, stats_of
from read_api.asked import ApiRequest
from read_api.auth import may
from read_api.endpoint_statistics import EndpointStatistics, body_of, mean_ms
from read_api.health import Assessment, Health, Surroundings, assess
from read_api.view import Ports

GIBIBYTE = 1024**3


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    count: Logical processors.
    usage_percent: Of each of them, since the last time it was asked for.
    """

    count: int
    usage_percent: list[float]
    average_usage: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """In bytes."""

    total: int
    available: int
    used: int
    percent: float


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """In bytes."""

    total: int
    used: int
    percent: float


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The disk that holds the installation's folder, else the process's; in bytes.

    Attributes:
        read_bytes, write_bytes: Of all disks, since the machine started; None if it does not tell.
    """

    total: int
    used: int
    free: int
    percent: float
    usage_percent: float
    read_bytes: int | None
    write_bytes: int | None


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """Of all interfaces, since the machine started."""

    bytes_sent: int
    bytes_recv: int
    packets_sent: int
    packets_recv: int


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What the host has and does.

    Attributes:
        network: None if the host does not tell.
        uptime_s: Of the process that answers.
    """

    cpu: Processor
    memory: Memory
    swap: Swap
    disk: Disk
    network: Network | None
    uptime_s: float


class MetricsBody(msgspec.Struct, frozen=True, kw_only=True):
    """The original's figures of the moment, of the machine that answers and of all its callers.

    Attributes:
        api_calls_count, error_rate, average_response_time: Of the whole installation since it
            began; percent, and milliseconds.
    """

    timestamp: datetime
    cpu: Processor
    memory: Memory
    swap: Swap
    disk: Disk
    network: Network | None
    api_calls_count: int
    error_rate: float
    average_response_time: float


class Component(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    status: Health
    last_check: datetime
    metrics: dict[str, int]


class SystemHealthBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    system_metrics: Spelled for people: `3.1%`, `9.0GB`.
    uptime: Of the process that answers: `1 day, 2:03:04`.
    """

    overall_status: Health
    components: list[Component]
    system_metrics: dict[str, str]
    uptime: str
    version: str
    timestamp: datetime


class AgentTypesBody(msgspec.Struct, frozen=True, kw_only=True):
    types: list[str]
    descriptions: dict[str, str]


class SystemController(Controller):
    path = "/api/system"
    tags = ("system",)

    @get("/health", summary="How each part of the system is", opt=may("workspace:read"))
    async def health(
        self,
        ports: NamedDependency[Ports],
        projector_names: NamedDependency[Callable[[], list[str]]],
        surroundings: NamedDependency[Surroundings],
        resources: NamedDependency[Callable[[], Resources]],
    ) -> SystemHealthBody:
        """Tell it to people; 200 whatever it is. `/health` is for programs."""
        found, now = await assess(ports, projector_names()), ports.circumstances.now()
        away = surroundings.degraded()
        components = [
            *(
                Component(name=name, status=status, last_check=now, metrics=_figures(name, found))
                for name, status in found.components.items()
            ),
            *(Component(name=n, status="degraded", last_check=now, metrics={}) for n in away),
        ]
        host = resources()
        return SystemHealthBody(
            overall_status="degraded" if away and found.status == "healthy" else found.status,
            components=components,
            system_metrics=_spelled(host),
            uptime=str(timedelta(seconds=int(host.uptime_s))),
            version=version("automatos"),
            timestamp=now,
        )

    @get("/metrics", summary="What the machine does, and all callers", opt=may("system:read"))
    async def metrics(
        self,
        statistics: NamedDependency[EndpointStatistics],
        resources: NamedDependency[Callable[[], Resources]],
    ) -> MetricsBody:
        """Tell the figures of this moment; none of the past are kept."""
        rows, host = await statistics.all(), resources()
        now = statistics.now()
        summary = body_of(rows, statistics.recent_us, now).summary
        return MetricsBody(
            timestamp=now,
            cpu=host.cpu,
            memory=host.memory,
            swap=host.swap,
            disk=host.disk,
            network=host.network,
            api_calls_count=summary.total_calls,
            error_rate=summary.overall_error_rate,
            average_response_time=mean_ms(rows),
        )

    @get("/agent-types", summary="List the known kinds of agents", opt=may("agents:read"))
    async def agent_types(self) -> AgentTypesBody:
        return AgentTypesBody(types=list(AGENT_TYPES), descriptions=AGENT_TYPES)

    @get("/agent-statistics", summary="Count the workspace's agents", opt=may("agents:read"))
    async def agent_statistics(self, request: ApiRequest) -> Response[StatsBody]:
        return await stats_of(request.view)


def _figures(component: str, found: Assessment) -> dict[str, int]:
    """Give what a component's status is judged by."""
    if component == "read_models":
        behind = max(found.behind.values(), default=0)
        return {"events_behind": behind, "parked": sum(found.parked.values())}
    if component == "event_store" and found.head is not None:
        return {"events": found.head}
    return {}


def _spelled(host: Resources) -> dict[str, str]:
    """Spell what `/health` tells everybody, in the original's words."""
    return {
        "cpu_usage": f"{host.cpu.average_usage}%",
        "memory_usage": f"{host.memory.percent}%",
        "memory_available": f"{host.memory.available / GIBIBYTE:.1f}GB",
    }
