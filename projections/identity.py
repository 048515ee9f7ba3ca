"""Workspaces and the API keys that open them."""

from datetime import datetime
from typing import ClassVar

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Table, Text, select

from domain.catalog import AnyEvent
from domain.events import Event, Recorded, WorkspaceId
from domain.identity import ApiKeyCreated, ApiKeyRevoked, KeyId, WorkspaceCreated
from projections.projector import READ_MODELS, Batch, micros, moment

workspaces = Table(
    "workspaces",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("holder", Text, nullable=False, comment="sealed"),
    Column("secret_hash", Text, nullable=False),
    Column("last_four", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)


class IdentityProjector:
    name: ClassVar[str] = "identity"
    tables: ClassVar[tuple[Table, ...]] = (workspaces, api_keys)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(
        {WorkspaceCreated, ApiKeyCreated, ApiKeyRevoked}
    )

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        at = micros(recorded.metadata.occurred_at)
        match recorded.event:
            case WorkspaceCreated() as event:
                batch.rows(workspaces).put(
                    {"workspace_id": event.workspace_id, "name": event.name, "created_at": at}
                )
            case ApiKeyCreated() as event:
                batch.rows(api_keys).put(
                    {
                        "workspace_id": recorded.metadata.workspace_id,
                        "key_id": event.key_id,
                        "name": event.name,
                        "holder": event.holder,
                        "secret_hash": event.secret_hash,
                        "last_four": event.last_four,
                        "created_at": at,
                        "revoked_at": None,
                    }
                )
            case ApiKeyRevoked() as event:
                rows = batch.rows(api_keys)
                row = rows.get(recorded.metadata.workspace_id, event.key_id)
                if row is not None:
                    rows.put(row | {"revoked_at": at})
            case _:
                pass


# Queries.


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    workspace_id: WorkspaceId
    key_id: KeyId
    name: str
    secret_hash: str
    last_four: str
    created_at: datetime


def valid_keys(connection: Connection) -> list[KeyRow]:
    """Select the keys of all workspaces that are not revoked."""
    found = connection.execute(select(api_keys).where(api_keys.c.revoked_at.is_(None)))
    return [
        KeyRow(
            workspace_id=WorkspaceId(row["workspace_id"]),
            key_id=KeyId(row["key_id"]),
            name=row["name"],
            secret_hash=row["secret_hash"],
            last_four=row["last_four"],
            created_at=moment(row["created_at"]),
        )
        for row in found.mappings()
    ]
