"""Parked workspaces: which there are, and how one gets its read model back.

All that a workspace has recorded since is projected in one transaction, with the row that parked
it and under the lock on the checkpoint: so no projector skips, or repeats, an event meanwhile.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Engine, select

from domain.catalog import AnyEvent
from domain.events import Recorded, WorkspaceId
from infra.event_store.codec import Codec
from infra.event_store.store import Log
from infra.failpoints import failpoint
from infra.projecting import readable, told, why_unreadable
from infra.vault import Vault
from projections.projector import (
    Projector,
    fold,
    moment,
    park,
    parked_slices,
    standings,
    unpark,
)

PAGE_MAX = 1_000


class Parked(NamedTuple):
    projector: str
    workspace_id: WorkspaceId
    position: int
    stream_id: str
    error: str
    occurred_at: datetime


class Place(NamedTuple):
    projector: Projector
    workspace_id: WorkspaceId
    partition: int


def parked(engine: Engine) -> list[Parked]:
    """List what is parked."""
    with engine.begin() as connection:
        found = connection.execute(select(parked_slices).order_by(*parked_slices.primary_key))
        rows = [dict(row) for row in found.mappings()]
    return [Parked(**row)._replace(occurred_at=moment(row["occurred_at"])) for row in rows]


async def bring_back(
    rows: Log, engine: Engine, place: Place, *, skipped: int | None = None
) -> Parked | None:
    """Project what a parked workspace has missed; tell where it is parked again, if it is.

    Args:
        skipped: Position of an event to leave out.
    """
    name, workspace_id = place.projector.name, place.workspace_id
    with engine.begin() as connection:
        passed = standings(connection, [name], place.partition)[name]
        since = passed.parked.get(workspace_id)
        if since is None:
            return None
        unpark(connection, name, workspace_id)
        async for recorded in _missed(rows, workspace_id, since, passed.position):
            if recorded.global_position == skipped:
                continue
            error = _projected(connection, place.projector, recorded)
            if error:
                park(connection, name, recorded, error)
                break
        failpoint("unpark.in_transaction")
    failpoint("unpark.after_commit")
    return next((p for p in parked(engine) if p[:2] == (name, workspace_id)), None)


async def _missed(
    rows: Log, workspace_id: WorkspaceId, since: int, upto: int
) -> AsyncIterator[Recorded[AnyEvent]]:
    # Personal fields stay sealed, so that no key is needed.
    codec, after = Codec(Vault()), since - 1
    while page := await rows.workspace(workspace_id, after=after, limit=PAGE_MAX):
        for row in page:
            if row.global_position > upto:
                return
            yield readable(codec, row)
        after = page[-1].global_position


def _projected(connection: Connection, projector: Projector, recorded: Recorded[AnyEvent]) -> str:
    """Project one event; tell what went wrong, and leave nothing of it then."""
    unreadable = why_unreadable(recorded.event)
    if unreadable or type(recorded.event) not in projector.folds:
        return unreadable or ""
    try:
        with connection.begin_nested():
            fold(connection, projector, [recorded])
    except Exception as error:  # noqa: BLE001 whatever a projector raises parks the workspace
        return told(error)
    return ""
