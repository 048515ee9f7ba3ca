"""The composition root: the one place where parts meet."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
from litestar import Litestar
from sqlalchemy import Engine

from commands.processes.runs import RunProcess, Worker
from commands.runs import RunCommands
from domain.events import WorkspaceId
from infra.api_keys import KeyRing, Projection, make_key, platform_alone
from infra.clerk_tokens import clerk_tokens
from infra.clock import utc_now
from infra.directory import Directory
from infra.edges import around, runs_per_workspace
from infra.ending import end
from infra.endpoint_statistics import EndpointTable
from infra.exposition import Sources
from infra.exposure import is_private
from infra.follower import Follower
from infra.ids import new_uuid
from infra.key_uses import KeyUses
from infra.lately import Lately
from infra.llm.providers import LanguageModels, ModelSettings
from infra.local_key import LocalKey
from infra.machine import machine, resources
from infra.operators import platform_and_local
from infra.prices import PriceBook
from infra.process_runner import ProcessRunner
from infra.read_store import Reads, open_engine
from infra.settings import Settings
from infra.tickets import LocalTickets, RedisTickets
from infra.writing import Writing, build_writing
from projections.agents import AgentsProjector
from projections.identity import IdentityProjector, valid_keys
from projections.projector import Projector
from projections.runs import DueRunsProjector, RunsProjector
from projections.settings import SettingsProjector
from projections.usage import UsageProjector
from projections.workflows import WorkflowsProjector
from read_api.app import Edges, create_app, swagger_files
from read_api.asked import Commands
from read_api.auth import Circumstances
from read_api.defaults import Defaults
from read_api.endpoint_statistics import EndpointStatistics, Totals
from read_api.health import Alone, Surroundings
from read_api.metrics import Exposition
from read_api.reads import Progress
from read_api.reads import Reads as AnyReads
from read_api.view import Ports

if TYPE_CHECKING:
    from infra.postgres.tickets import DatabaseTickets
    from infra.tracing import Traces

PROJECTORS: tuple[Projector, ...] = (
    AgentsProjector(),
    WorkflowsProjector(),
    RunsProjector(),
    DueRunsProjector(),
    UsageProjector(),
    IdentityProjector(),
    SettingsProjector(),
)

SECRET_BYTES = 32


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """An embedded installation: everything in one process, on one folder."""

    writing: Writing
    runs: RunCommands
    models: LanguageModels
    engine: Engine
    reads: Reads
    follower: Follower
    runner: ProcessRunner
    tasks: list[asyncio.Task[None]]

    async def start(self) -> None:
        """Bring read models up to date, then follow and run what is due."""
        await self.follower.catch_up()
        self.tasks.append(asyncio.create_task(self.follower.run()))
        self.tasks.append(asyncio.create_task(self.runner.run()))

    async def stop(self) -> None:
        """Let steps end within their bound, then close everything."""
        if self.tasks:
            follower, runner = self.tasks
            runner.cancel()
            await self.runner.drain()
            await self.follower.catch_up()
            await end([follower, runner])
        await self.models.close()
        self.reads.close()
        self.engine.dispose()
        await self.writing.aclose()

    async def has_key(self, workspace_id: WorkspaceId) -> bool:
        keys = await self.reads.ask(valid_keys)
        return any(key.workspace_id == workspace_id for key in keys)


def build_installation(
    settings: Settings, *, on_failure: Callable[[Exception], None] = lambda _: None
) -> Installation:
    """Wire an embedded installation. Only one process at a time may, by `infra.lock`."""
    writing = build_writing(settings, on_failure=on_failure)
    path = settings.data_dir / "read_models.db"
    engine = open_engine(path, PROJECTORS)
    reads = Reads(path, engine)
    follower = Follower(writing.store, engine, PROJECTORS)
    models = build_models(settings)
    process = build_process(writing, models, sole=True)
    return Installation(
        writing=writing,
        runs=RunCommands(writing.transactions, writing.next_id, process.interrupt),
        models=models,
        engine=engine,
        reads=reads,
        follower=follower,
        runner=ProcessRunner(process, follower, reads, utc_now),
        tasks=[],
    )


def build_process(
    writing: Writing,
    models: LanguageModels,
    *,
    sole: bool,
    now: Callable[[], datetime] = utc_now,
) -> RunProcess:
    """Wire what keeps runs going; `sole` if no other process does.

    Args:
        now: By which leases end.
    """
    traces = traces_of(writing.settings)
    return RunProcess(
        writing.transactions,
        models if traces is None else traces.of_models(models),
        worker=Worker(new_uuid()),
        now=now,
        new_uuid=new_uuid,
        sole=sole,
        installed=writing.system_settings.installed,
        stream=writing.settings.llm_stream,
    )


def traces_of(settings: Settings) -> "Traces | None":
    """Give this process's traces, always the same ones; None where none are wanted."""
    if not settings.otel_exporter_otlp_endpoint:
        return None
    # Imported here: it costs a start more time than all else that is seldom wanted.
    from infra.tracing import traces_to  # noqa: PLC0415

    return traces_to(settings.otel_exporter_otlp_endpoint)


def build_models(settings: Settings) -> LanguageModels:
    wanted = ModelSettings(
        api_keys=settings.api_keys,
        base_urls=settings.base_urls,
        default_provider=settings.provider,
        default_model=settings.model,
        offline_when_no_key=settings.offline_when_no_key,
    )
    return LanguageModels(wanted, PriceBook(), now=utc_now)


def build_app(installation: Installation, *, closing: Callable[[], bool]) -> Litestar:
    """Wire the API of an embedded installation; it starts and stops with the application."""
    return wire_app(
        installation.writing,
        Sight(
            installation.reads,
            installation.follower,
            Alone(),
            EndpointTable(installation.engine).make(),
        ),
        installation.runs,
        closing=closing,
        on_startup=installation.start,
        on_shutdown=installation.stop,
    )


class Following(Progress, Projection, Protocol):
    """How far the read models are, for whoever reads and whoever verifies keys."""


class Sight(NamedTuple):
    """What an API sees of the read models, wherever they are."""

    reads: AnyReads
    progress: Following
    surroundings: Surroundings
    totals: Totals


def _tickets(settings: Settings, secret: bytes) -> "LocalTickets | RedisTickets | DatabaseTickets":
    """Choose where tickets lie: with a database there may be several processes."""
    if settings.redis_url:
        return RedisTickets(settings.redis_url, secret)
    if not settings.database_url:
        return LocalTickets()
    # Imported here: the embedded profile starts without it.
    from infra.postgres.tickets import DatabaseTickets  # noqa: PLC0415

    return DatabaseTickets(settings.database_url, secret)


def _authenticator(writing: Writing, sight: Sight) -> Directory | LocalKey:
    settings = writing.settings
    tenants = settings.database_url or settings.clerk_issuer
    lately = Lately(writing.store, lambda: sight.progress.position("identity"))
    keys = KeyRing(
        sight.reads,
        writing.store,
        sight.progress,
        writing.vault.pepper(),
        used=KeyUses(writing.note_key_use).used,
        operators=platform_alone if tenants else platform_and_local(writing.store),
        lately=lately,
    )
    directory = Directory(
        keys,
        clerk_tokens(settings),
        sight.reads,
        writing.provision,
        preferred=WorkspaceId(settings.workspace_id) or None,
        lately=lately,
    )
    if settings.api_key and is_private(settings):
        return LocalKey(settings.api_key, writing.local_workspace, directory)
    return directory


def wire_app(
    writing: Writing,
    sight: Sight,
    runs: RunCommands,
    *,
    closing: Callable[[], bool],
    on_startup: Callable[[], Any],
    on_shutdown: Callable[[], Any],
) -> Litestar:
    """Wire an application over a write side and whatever projects it."""
    settings, reads, progress = writing.settings, sight.reads, sight.progress
    ports = Ports(
        reads=reads,
        log=writing.store,
        progress=progress,
        circumstances=Circumstances(
            utc_now, new_uuid, partial(secrets.token_urlsafe, SECRET_BYTES)
        ),
        defaults=Defaults(writing.system_settings.default_model),
    )
    authenticator = _authenticator(writing, sight)
    tickets = _tickets(settings, writing.vault.pepper())
    names = [projector.name for projector in PROJECTORS]
    statistics = EndpointStatistics(sight.totals, utc_now)
    beside = around(settings, statistics)
    sources = Sources(statistics, writing.store, progress, names, sight.surroundings.relayed)
    app = create_app(
        ports,
        Commands(
            agents=writing.agents,
            workflows=writing.workflows,
            runs=runs,
            identity=writing.identity,
            settings=writing.system_settings,
            make_key=partial(make_key, writing.vault.pepper()),
        ),
        Edges(
            authenticator=authenticator,
            tickets=tickets,
            docs_assets=swagger_files(),
            closing=closing,
            projector_names=lambda: names,
            rules=beside.rules,
            statistics=statistics,
            machine=machine,
            resources=partial(resources, Path("/") if settings.database_url else settings.data_dir),
            metrics=Exposition(settings.metrics, sources.written),
            streams_per_workspace=settings.streams_per_workspace,
            streams_per_key=settings.streams_per_key,
            runs_per_workspace=runs_per_workspace(settings),
            surroundings=sight.surroundings,
        ),
        on_startup=[on_startup, beside.start],
        on_shutdown=[beside.stop, tickets.aclose, authenticator.aclose, on_shutdown],
    )
    traces = traces_of(settings)
    if traces is not None:
        app.asgi_handler = traces.around(app.asgi_handler)
        app.on_shutdown.append(traces.close)
    return app
