"""Is it alive, and what is there."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from typing import Literal

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from commands.transact import CommandError
from read_api.auth import PUBLIC
from read_api.view import Ports

PROBE_MAX_S = 2.0
LAG_MAX = 10_000
"""Events a read model may be behind before we call ourselves degraded."""

Health = Literal["healthy", "degraded", "unhealthy"]


class HealthBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    read_models: How many events each projector is behind the log.
    """

    status: Health
    service: str
    version: str
    timestamp: datetime
    components: dict[str, Health]
    read_models: dict[str, int]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    service: str
    status: str
    version: str
    documentation: dict[str, str]
    endpoints: dict[str, str]


@get("/health", opt={PUBLIC: True}, summary="Is the service healthy", tags=["health"])
async def health(
    ports: NamedDependency[Ports], projector_names: NamedDependency[Callable[[], list[str]]]
) -> Response[HealthBody]:
    """Probe the store and the read models; 503 when one of them does not answer."""
    head = await _head(ports)
    behind = {
        name: max(0, (head or 0) - ports.progress.position(name)) for name in projector_names()
    }
    components: dict[str, Health] = {
        "api_server": "healthy",
        "event_store": "healthy" if head is not None else "unhealthy",
        "read_models": _read_models(ports, behind),
    }
    status = _worst(components)
    body = HealthBody(
        status=status,
        service="automatos-ai-api",
        version=version("automatos"),
        timestamp=ports.circumstances.now(),
        components=components,
        read_models=behind,
    )
    return Response(body, status_code=503 if status == "unhealthy" else 200)


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
        },
    )


async def _head(ports: Ports) -> int | None:
    try:
        return await asyncio.wait_for(ports.log.head(), PROBE_MAX_S)
    except (CommandError, OSError, TimeoutError):
        return None


def _read_models(ports: Ports, behind: dict[str, int]) -> Health:
    if ports.progress.failed:
        return "unhealthy"
    return "degraded" if max(behind.values(), default=0) > LAG_MAX else "healthy"


def _worst(components: dict[str, Health]) -> Health:
    found = set(components.values())
    if "unhealthy" in found:
        return "unhealthy"
    return "degraded" if "degraded" in found else "healthy"
