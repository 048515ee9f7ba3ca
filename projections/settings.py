"""What each workspace has set."""

from datetime import datetime
from typing import ClassVar, NamedTuple, get_args

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Connection, Table, Text, select

from domain.catalog import AnyEvent
from domain.events import Event, Recorded, WorkspaceId
from domain.settings import (
    Definition,
    SecretSettingChanged,
    SettingChanged,
    SettingDefined,
    SettingDescribed,
    SettingName,
    SettingRemoved,
    SettingReset,
    SettingsEvent,
    WorkspaceSettings,
)
from projections.projector import Batch
from projections.rows import READ_MODELS, Row, as_json, micros, moment

settings = Table(
    "settings",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("setting", Text, primary_key=True),
    Column("definition", Text, comment="of the workspace's own; null for the platform's"),
    Column("value", Text, comment="never a sensitive one"),
    Column("is_set", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("updated_by", Text, nullable=False),
)

settings_versions = Table(
    "settings_versions",
    READ_MODELS,
    Column("workspace_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
)


class SettingsProjector:
    name: ClassVar[str] = "settings"
    tables: ClassVar[tuple[Table, ...]] = (settings, settings_versions)
    folds: ClassVar[frozenset[type[Event]]] = frozenset(get_args(SettingsEvent))

    def project(self, recorded: Recorded[AnyEvent], batch: Batch) -> None:
        workspace_id = recorded.metadata.workspace_id
        match recorded.event:
            case SettingRemoved(setting=setting):
                batch.rows(settings).delete(workspace_id, setting)
            case SettingDefined(definition=definition):
                row = _made(recorded, definition.name)
                batch.rows(settings).put(row | {"definition": as_json(definition)})
            case (
                SettingDescribed() | SettingChanged() | SecretSettingChanged() | SettingReset()
            ) as event:
                rows = batch.rows(settings)
                row = rows.get(workspace_id, event.setting) or _made(recorded, event.setting)
                rows.put(row | _changed(row, event) | _touched(recorded))
            case _:
                return
        version = {"workspace_id": workspace_id, "version": recorded.stream_version}
        batch.rows(settings_versions).put(version)


def _made(recorded: Recorded[AnyEvent], setting: SettingName) -> Row:
    return {
        "workspace_id": recorded.metadata.workspace_id,
        "setting": setting,
        "definition": None,
        "value": None,
        "is_set": False,
        "created_at": micros(recorded.metadata.occurred_at),
        "created_by": recorded.metadata.actor,
        **_touched(recorded),
    }


def _touched(recorded: Recorded[AnyEvent]) -> Row:
    metadata = recorded.metadata
    return {"updated_at": micros(metadata.occurred_at), "updated_by": metadata.actor}


def _changed(
    row: Row, event: SettingDescribed | SettingChanged | SecretSettingChanged | SettingReset
) -> Row:
    match event:
        case SettingChanged():
            return {"value": event.value, "is_set": True}
        case SecretSettingChanged():
            return {"value": None, "is_set": True}
        case SettingReset():
            return {"value": None, "is_set": False}
        case SettingDescribed():
            if row["definition"] is None:
                return {}
            known = _DEFINITION.decode(row["definition"])
            told = msgspec.structs.replace(
                known, description=event.description, is_required=event.is_required
            )
            return {"definition": as_json(told)}


_DEFINITION = msgspec.json.Decoder(Definition)


# Queries.


class Touched(NamedTuple):
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


class SettingsRow(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    touched: When and by whom, of the settings that anybody touched.
    version: Of all of them together; 0 if nobody ever touched one.
    """

    settings: WorkspaceSettings
    touched: dict[SettingName, Touched]
    version: int


def workspace_settings(connection: Connection, workspace_id: WorkspaceId) -> SettingsRow:
    found = connection.execute(select(settings).where(settings.c.workspace_id == workspace_id))
    rows = [dict(row) for row in found.mappings()]
    version = connection.execute(
        select(settings_versions.c.version).where(settings_versions.c.workspace_id == workspace_id)
    ).scalar()
    return SettingsRow(
        settings=_settings(rows),
        touched={SettingName(row["setting"]): _touch(row) for row in rows},
        version=version or 0,
    )


def _settings(rows: list[Row]) -> WorkspaceSettings:
    return WorkspaceSettings(
        own={
            SettingName(row["setting"]): _DEFINITION.decode(row["definition"])
            for row in rows
            if row["definition"] is not None
        },
        values={
            SettingName(row["setting"]): row["value"] for row in rows if row["value"] is not None
        },
        secrets=frozenset(
            SettingName(row["setting"]) for row in rows if row["is_set"] and row["value"] is None
        ),
    )


def _touch(row: Row) -> Touched:
    return Touched(
        moment(row["created_at"]), row["created_by"], moment(row["updated_at"]), row["updated_by"]
    )
