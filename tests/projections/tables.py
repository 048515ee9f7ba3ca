"""Read models in a database of their own, as a log leaves them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from domain.catalog import AnyEvent
from domain.events import Recorded
from infra.read_store import digest, open_engine
from projections.agents import AgentsProjector
from projections.identity import IdentityProjector
from projections.projector import Projector, project
from projections.runs import DueRunsProjector, RunsProjector
from projections.settings import SettingsProjector
from projections.usage import UsageProjector
from projections.workflows import WorkflowsProjector

PROJECTORS: tuple[Projector, ...] = (
    AgentsProjector(),
    WorkflowsProjector(),
    RunsProjector(),
    DueRunsProjector(),
    UsageProjector(),
    IdentityProjector(),
    SettingsProjector(),
)


@contextmanager
def database() -> Iterator[Engine]:
    engine = open_engine(None)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def projected(log: Sequence[Recorded[AnyEvent]]) -> Iterator[Connection]:
    """Project a log into every read model, and give a connection to ask them."""
    with database() as engine, engine.begin() as connection:
        for projector in PROJECTORS:
            project(connection, projector, log)
        yield connection


def digests(connection: Connection) -> dict[str, str]:
    return {projector.name: digest(connection, projector) for projector in PROJECTORS}
