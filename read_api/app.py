"""The list of routes and what wraps them; nothing of infra is wired here."""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
from litestar import Litestar, Request, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins.problem_details import ProblemDetailsException
from litestar.static_files import (
    create_static_files_router,  # pyright: ignore[reportUnknownVariableType] its PathLike
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolIsBusy

from commands.transact import StorageUnavailable
from read_api import agents, events, workflows
from read_api.agents import AgentController, AgentHistoryController
from read_api.asked import Commands, Shared, bound_to
from read_api.auth import PUBLIC, Authenticator, guard
from read_api.document import struct_schemas
from read_api.edge import DOCS_PATH, Rules, edge
from read_api.endpoint_statistics import EndpointStatistics, endpoint_health
from read_api.errors import of_command, problem_details, unexpected
from read_api.events import EventController
from read_api.health import Alone, Machine, Surroundings, health, live, overview, ready
from read_api.identity import (
    ApiKeyController,
    InvitationController,
    UserController,
    WorkspaceController,
)
from read_api.lane import lane
from read_api.limits import Limits, after_guard, before_guard
from read_api.metrics import Exposition
from read_api.metrics import routes as metrics_routes
from read_api.problems import documented_problems, problems_page
from read_api.quotas import RunPlaces
from read_api.runs import ExecutionController
from read_api.settings import SettingController
from read_api.streams import Places
from read_api.system import Resources, SystemController
from read_api.system_config import SystemConfigController
from read_api.texts import checked
from read_api.tickets import Tickets
from read_api.usage import UsageController
from read_api.view import Ports
from read_api.workflows import WorkflowController

DESCRIPTION = """\
Raw JSON, no envelope. Refusals are `application/problem+json` (RFC 9457) with a `detail` for
people, a `code` for programs and a JSON pointer to the fault.

- `Idempotency-Key` on any command: repeat the request and get the same answer, done once.
- `ETag` and `If-Match`: 412 when somebody was faster.
- `X-Event-Position` on answers, `Min-Position` on requests: read what you wrote.
- `/api/events/stream`: Server-Sent Events, resumable with `Last-Event-ID`.
"""

log = structlog.get_logger(__name__)


class Edges(msgspec.Struct, frozen=True, kw_only=True):
    """What surrounds the routes.

    Attributes:
        docs_assets: Folder with the docs page's own copy of Swagger UI.
        closing: Whether the process has been asked to stop: streams then end.
        projector_names: For health.
        machine: What the host's processor and memory do, for health.
        resources: And all else that is told of it.
        metrics: What Prometheus reads.
        streams_per_workspace, streams_per_key: Live ones, at once, in this process.
        runs_per_workspace: At once; None for any number.
        surroundings: For readiness.
    """

    authenticator: Authenticator
    tickets: Tickets
    docs_assets: Path
    closing: Callable[[], bool]
    projector_names: Callable[[], list[str]]
    rules: Rules
    streams_per_workspace: int
    streams_per_key: int
    runs_per_workspace: int | None
    statistics: EndpointStatistics
    machine: Callable[[], Machine]
    resources: Callable[[], Resources]
    metrics: Exposition
    surroundings: Surroundings = Alone()


def create_app(
    ports: Ports,
    commands: Commands,
    edges: Edges,
    *,
    on_startup: Sequence[Callable[[], Any]] = (),
    on_shutdown: Sequence[Callable[[], Any]] = (),
) -> Litestar:
    places = Places(edges.streams_per_workspace, edges.streams_per_key)
    guarded = partial(guard, authenticator=edges.authenticator, tickets=edges.tickets)
    request_class = bound_to(
        Shared(
            ports,
            commands,
            edges.closing,
            places,
            edges.tickets,
            edges.authenticator,
            RunPlaces(edges.runs_per_workspace),
        )
    )
    app = Litestar(
        route_handlers=[
            AgentController,
            AgentHistoryController,
            WorkflowController,
            ExecutionController,
            UsageController,
            EventController,
            UserController,
            WorkspaceController,
            InvitationController,
            ApiKeyController,
            SettingController,
            SystemController,
            SystemConfigController,
            health,
            live,
            ready,
            overview,
            endpoint_health,
            *metrics_routes(edges.metrics.access),
            problems_page,
            create_static_files_router(
                path=f"{DOCS_PATH}/assets", directories=[edges.docs_assets], opt={PUBLIC: True}
            ),
        ],
        dependencies=_dependencies(ports, edges),
        middleware=[
            *_around_guard(guarded, edges.rules.limits),
            partial(lane, request_class=request_class),
        ],
        request_class=request_class,
        request_max_body_size=edges.rules.body_max,
        plugins=[problem_details, documented_problems, struct_schemas],
        exception_handlers={500: unexpected, Exception: _any},
        openapi_config=_openapi(),
        on_startup=list(on_startup),
        on_shutdown=list(on_shutdown),
        logging_config=None,
    )
    # Around the routing too, which Litestar's own middleware is not: a 404 is an answer as well.
    app.asgi_handler = edge(checked(app.asgi_handler), edges.rules)
    return app


def _around_guard(guarded: Any, limits: Limits | None) -> list[Any]:  # noqa: ANN401 Litestar's
    if limits is None:
        return [guarded]
    return [partial(before_guard, limits=limits), guarded, partial(after_guard, limits=limits)]


def _any(request: Request[Any, Any, Any], error: Exception) -> Any:  # noqa: ANN401
    if isinstance(error, ProblemDetailsException):
        return error.to_response(request)
    if isinstance(error, OperationalError | PoolIsBusy):
        # Of the read models: the log says the same of itself, as a refusal.
        log.error("read models cannot be read", path=request.url.path, error=type(error).__name__)
        away = StorageUnavailable("The read models do not answer.")
        return of_command(away).to_response(request)
    return unexpected(request, error)


def _dependencies(ports: Ports, edges: Edges) -> dict[str, Provide]:
    return {
        "ports": Provide(lambda: ports, sync_to_thread=False),
        "projector_names": Provide(lambda: edges.projector_names, sync_to_thread=False),
        "surroundings": Provide(lambda: edges.surroundings, sync_to_thread=False),
        "closing": Provide(lambda: edges.closing, sync_to_thread=False),
        "statistics": Provide(lambda: edges.statistics, sync_to_thread=False),
        "machine": Provide(lambda: edges.machine, sync_to_thread=False),
        "resources": Provide(lambda: edges.resources, sync_to_thread=False),
        "exposition": Provide(lambda: edges.metrics, sync_to_thread=False),
    }


for _controller, _filter in (
    (AgentController, agents.provide_filter),
    (WorkflowController, workflows.provide_filter),
    (EventController, events.provide_filter),
):
    _controller.dependencies = {"wanted": Provide(_filter, sync_to_thread=False)}


def _openapi() -> OpenAPIConfig:
    assets = f"{DOCS_PATH}/assets"
    return OpenAPIConfig(
        title="Automatos AI API",
        version="1.0.0",
        description=DESCRIPTION,
        # Public: a browser that opens the page has no key to send.
        openapi_router=Router(
            DOCS_PATH, route_handlers=[], opt={PUBLIC: True}, include_in_schema=False
        ),
        render_plugins=[
            SwaggerRenderPlugin(
                path="/",
                js_url=f"{assets}/swagger-ui-bundle.js",
                css_url=f"{assets}/swagger-ui.css",
                standalone_preset_js_url=f"{assets}/swagger-ui-standalone-preset.js",
                favicon="<link rel='icon' href='data:,'>",
            ),
            JsonRenderPlugin(path="/openapi.json"),
        ],
        components=Components(
            security_schemes={
                "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
                "bearer": SecurityScheme(type="http", scheme="bearer"),
            }
        ),
        security=[{"key": []}, {"bearer": []}],
    )


def swagger_files() -> Path:
    """Find Swagger UI's files in the package that carries them, without importing it."""
    found = importlib.util.find_spec("swagger_ui")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "static"
