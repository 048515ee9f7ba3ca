"""Is it alive, and what is there."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from importlib.metadata import version
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from commands.transact import CommandError
from read_api.auth import PUBLIC
from read_api.view import Ports

PROBE_MAX_S = 2.0
LAG_MAX = 10_000
"""Events a read model may be behind before we call ourselves degraded."""

Health = Literal["healthy", "degraded", "unhealthy"]
Ready = Literal["ready", "draining", "not ready"]


@runtime_checkable
class Surroundings(Protocol):
    """What other processes do for this one, told by whoever composes the application."""

    async def look(self) -> None:
        """Find out how things are now, within a bound; what is away is told, not raised."""
        ...

    def degraded(self) -> list[str]:
        """Name what is away and not needed: everything is right without it, if slower."""
        ...

    def relayed(self) -> int | None:
        """Tell the position up to which the log is on Kafka; None if nobody copies it."""
        ...


class Alone:
    """Implements `Surroundings` where one process does everything."""

    async def look(self) -> None:
        return

    def degraded(self) -> list[str]:
        return []

    def relayed(self) -> int | None:
        return None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The host that this process runs on.

    Attributes:
        cpu_percent: Since the last time it was asked for.
    """

    cpu_percent: float
    memory_used_percent: float
    memory_available_mb: float


class HealthBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    read_models: How many events each projector is behind the log.
    parked: How many workspaces a projector skips; those that skip none are left out.
    """

    status: Health
    service: str
    version: str
    timestamp: datetime
    components: dict[str, Health]
    metrics: Machine
    read_models: dict[str, int]
    parked: dict[str, int]


class LiveBody(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["live"]


class ReadyBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    event_store: Whether the log answers; degraded while there is no room in it.
    read_models: How many events each projector is behind the log, at most.
    relay_lag: How many events Kafka is behind the log; null where nothing is copied there.
    degraded: What is away; everything goes on without it, if slower.
    """

    status: Ready
    event_store: Health
    read_models: dict[str, int]
    relay_lag: int | None
    degraded: list[str]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    service: str
    status: str
    version: str
    documentation: dict[str, str]
    endpoints: dict[str, str]


@get("/health", opt={PUBLIC: True}, summary="Is the service healthy", tags=["health"])
async def health(
    ports: NamedDependency[Ports],
    projector_names: NamedDependency[Callable[[], list[str]]],
    machine: NamedDependency[Callable[[], Machine]],
) -> Response[HealthBody]:
    """Probe the store and the read models; 503 when one of them does not answer."""
    found = await assess(ports, projector_names())
    body = HealthBody(
        status=found.status,
        service="automatos-ai-api",
        version=version("automatos"),
        timestamp=ports.circumstances.now(),
        components=found.components,
        metrics=machine(),
        read_models=found.behind,
        parked=found.parked,
    )
    return Response(body, status_code=503 if found.status == "unhealthy" else 200)


class Assessment(NamedTuple):
    """Attributes:
    head: Of the log; None if it does not answer.
    behind: How many events each projector is behind it.
    parked: How many workspaces a projector skips; those that skip none are left out.
    """

    head: int | None
    behind: dict[str, int]
    parked: dict[str, int]
    components: dict[str, Health]

    @property
    def status(self) -> Health:
        return _worst(self.components.values())


async def assess(ports: Ports, projectors: list[str]) -> Assessment:
    """Probe the store and the read models, within a bound."""
    head = await _head(ports)
    behind = _behind(ports, projectors, head)
    parked = dict(ports.progress.parked_counts())
    store = _store(ports, head)
    components: dict[str, Health] = {
        "api_server": "healthy",
        # The original's word for it; there is no other database that could be away by itself.
        "database": store,
        # Settings that make no sense refuse the start.
        "config": "healthy",
        "event_store": store,
        "read_models": _worst([_read_models(ports, behind), "degraded" if parked else "healthy"]),
    }
    return Assessment(head, behind, parked, components)


@get("/health/live", opt={PUBLIC: True}, summary="Does the process answer", tags=["health"])
async def live() -> LiveBody:
    """Probe nothing: a process that does not answer this one is to be restarted."""
    return LiveBody(status="live")


@get(
    "/health/ready",
    opt={PUBLIC: True},
    summary="Should requests be sent here",
    tags=["health"],
    responses={503: ResponseSpec(ReadyBody, description="Not now: send requests elsewhere")},
)
async def ready(
    ports: NamedDependency[Ports],
    projector_names: NamedDependency[Callable[[], list[str]]],
    surroundings: NamedDependency[Surroundings],
    closing: NamedDependency[Callable[[], bool]],
) -> Response[ReadyBody]:
    """Probe what requests need; 503 as soon as the process is asked to stop, too."""
    head, _ = await asyncio.gather(_head(ports), surroundings.look())
    behind = _behind(ports, projector_names(), head)
    relayed = surroundings.relayed()
    store = _store(ports, head)
    serving = store == _read_models(ports, behind) == "healthy"
    body = ReadyBody(
        status="draining" if closing() else "ready" if serving else "not ready",
        event_store=store,
        read_models=behind,
        relay_lag=None if relayed is None else max(0, (head or 0) - relayed),
        degraded=surroundings.degraded(),
    )
    return Response(body, status_code=200 if body.status == "ready" else 503)


@get("/", opt={PUBLIC: True}, summary="What there is", tags=["health"])
async def overview() -> Overview:
    return Overview(
        service="Automatos AI API Server",
        status="operational",
        version=version("automatos"),
        documentation={"docs": "/docs", "openapi": "/docs/openapi.json"},
        endpoints={
            "agents": "/api/agents",
            "workflows": "/api/workflows",
            "executions": "/api/workflows/executions",
            "usage": "/api/usage",
            "events": "/api/events",
            "event stream": "/api/events/stream",
            "health": "/health",
            "liveness": "/health/live",
            "readiness": "/health/ready",
            "endpoint statistics": "/api/health/endpoints",
        },
    )


async def _head(ports: Ports) -> int | None:
    try:
        async with asyncio.timeout(PROBE_MAX_S):
            return await ports.log.head()
    except (CommandError, OSError, TimeoutError):
        return None


def _store(ports: Ports, head: int | None) -> Health:
    """Tell of the log; without room it still is read, and whoever reads is answered."""
    if head is None:
        return "unhealthy"
    return "degraded" if ports.log.is_full else "healthy"


def _behind(ports: Ports, projectors: list[str], head: int | None) -> dict[str, int]:
    return {name: max(0, (head or 0) - ports.progress.position(name)) for name in projectors}


def _read_models(ports: Ports, behind: dict[str, int]) -> Health:
    if ports.progress.failed:
        return "unhealthy"
    return "degraded" if max(behind.values(), default=0) > LAG_MAX else "healthy"


def _worst(components: Iterable[Health]) -> Health:
    found = set(components)
    if "unhealthy" in found:
        return "unhealthy"
    return "degraded" if "degraded" in found else "healthy"
