"""System settings of a workspace, in the original frontend's shapes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, UnsetType

from commands.settings import (
    Category,
    ChangeSetting,
    DefineSetting,
    Description,
    Key,
    NewValue,
    SettingAnswer,
)
from commands.transact import Outcome
from domain.effective import Told, told
from domain.events import WorkspaceId
from domain.setting_values import Rules, ValueType
from domain.settings import Source, categories, setting_id
from projections.settings import SettingsRow, Touched, workspace_settings
from read_api.accepted import accepted
from read_api.asked import ApiRequest
from read_api.auth import may
from read_api.errors import missing
from read_api.view import EntityId, View

CATEGORY_MAX = 50

BODY_MAX = 3 * 1024 * 1024
"""Bytes of a request: as many values at once as may be, of the greatest size, and some."""

Scalar: TypeAlias = str | int | float | bool
"""The original has text; forms send numbers and truth values as they are."""

AskedCategory = Annotated[str | None, QueryParameter(max_length=CATEGORY_MAX)]


class SettingBody(msgspec.Struct, frozen=True, kw_only=True):
    """The original's row, and what is ours at its end.

    Attributes:
        value: The workspace's own, else the default, spelled as text; of a sensitive setting
            `********`, or null where none is set.
        created_at, updated_at: Null until somebody touches the setting, and so are their actors.
        effective_value: What holds.
        source: Where that is from: what is set in the environment goes before the workspace's own.
        is_system: Of the platform, and not made by the workspace.
    """

    id: int
    category: str
    key: str
    value: str | None
    value_type: ValueType
    description: str
    is_sensitive: bool
    is_required: bool
    default_value: str | None
    validation_rules: Rules | None
    created_at: datetime | None
    created_by: str | None
    updated_at: datetime | None
    updated_by: str | None
    effective_value: str | None
    source: Source
    is_system: bool


class CategoryBody(msgspec.Struct, frozen=True, kw_only=True):
    category: str
    settings: list[SettingBody]
    total_count: int


class SettingStatsBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    categories: Settings of each.
    """

    total_settings: int
    categories: dict[str, int]
    sensitive_settings: int
    required_settings: int


class NewSetting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    is_sensitive: Its value is sealed, and never told again; for good.
    validation_rules: The original's field; only null.
    """

    category: Category
    key: Key
    value: Scalar | None = None
    value_type: ValueType = "string"
    default_value: Scalar | None = None
    description: Description | None = None
    is_sensitive: bool = False
    is_required: bool = False
    validation_rules: None = None


class SettingUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    value: Null for the default.
    description, is_required: Only of what the workspace made itself; null stays as it is.
    """

    value: Scalar | UnsetType | None = UNSET
    description: Description | None = None
    is_required: bool | None = None


class BulkUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    value: Scalar | None


class SettingsDone(msgspec.Struct, frozen=True):
    message: str


class SettingController(Controller):
    path = "/api/system-settings"
    tags = ("settings",)
    request_max_body_size = BODY_MAX

    @get("/", summary="List the system settings", opt=may("settings:read"))
    async def list_settings(
        self, request: ApiRequest, category: AskedCategory = None
    ) -> Response[list[SettingBody]]:
        found = await _Found.of(request)
        return found.response(
            [body for body in found.bodies() if category in {None, "", body.category}]
        )

    @get("/categories", summary="Name the categories", opt=may("settings:read"))
    async def categories(self, request: ApiRequest) -> Response[list[str]]:
        found = await _Found.of(request)
        return found.response(categories(found.row.settings.definitions()))

    @get("/by-category", summary="List the settings by category", opt=may("settings:read"))
    async def by_category(self, request: ApiRequest) -> Response[list[CategoryBody]]:
        found = await _Found.of(request)
        bodies = [
            CategoryBody(category=category, settings=members, total_count=len(members))
            for category, members in _grouped(found.bodies()).items()
        ]
        return found.response(bodies)

    @get("/stats", summary="Count the settings", opt=may("settings:read"))
    async def stats(self, request: ApiRequest) -> Response[SettingStatsBody]:
        found = await _Found.of(request)
        bodies = found.bodies()
        grouped = _grouped(bodies)
        body = SettingStatsBody(
            total_settings=len(bodies),
            categories={category: len(members) for category, members in grouped.items()},
            sensitive_settings=sum(body.is_sensitive for body in bodies),
            required_settings=sum(body.is_required for body in bodies),
        )
        return found.response(body)

    @get("/{setting_id:int}", summary="Read a setting", opt=may("settings:read"))
    async def read(self, setting_id: EntityId, request: ApiRequest) -> Response[SettingBody]:
        found = await _Found.of(request)
        for body in found.bodies():
            if body.id == setting_id:
                return found.response(body)
        raise missing("Setting")

    @post("/", summary="Make a setting of the workspace's own", opt=may("settings:manage"))
    async def define(
        self, data: JSONBody[NewSetting], request: ApiRequest
    ) -> Response[SettingBody]:
        command = DefineSetting(
            category=data.category,
            key=data.key,
            value=_text(data.value),
            value_type=data.value_type,
            default=_text(data.default_value),
            description=data.description or "",
            is_sensitive=data.is_sensitive,
            is_required=data.is_required,
        )
        issued = await request.issued()
        outcome = await request.commands.settings.define(command, issued)
        return await _answered(outcome, request, 201)

    @put("/{setting_id:int}", summary="Change a setting", opt=may("settings:manage"))
    async def change(
        self, setting_id: EntityId, data: JSONBody[SettingUpdate], request: ApiRequest
    ) -> Response[SettingBody]:
        command = ChangeSetting(
            value=UNSET if data.value is UNSET else _text(data.value),
            description=UNSET if data.description is None else data.description,
            is_required=UNSET if data.is_required is None else data.is_required,
        )
        issued = await request.issued()
        outcome = await request.commands.settings.change(setting_id, command, issued)
        return await _answered(outcome, request, 200)

    @delete(
        "/{setting_id:int}",
        status_code=200,
        summary="Remove a setting that the workspace made",
        opt=may("settings:manage"),
    )
    async def remove(self, setting_id: EntityId, request: ApiRequest) -> Response[SettingsDone]:
        issued = await request.issued()
        outcome = await request.commands.settings.remove(setting_id, issued)
        done = SettingsDone("Setting deleted successfully")
        return accepted(outcome, done, outcome.answer.version, 200)

    @post(
        "/bulk-update",
        status_code=200,
        summary="Change several settings, all or none",
        opt=may("settings:manage"),
    )
    async def change_many(
        self, data: JSONBody[list[BulkUpdate]], request: ApiRequest
    ) -> Response[SettingsDone]:
        values = [NewValue(each.id, _text(each.value)) for each in data]
        issued = await request.issued()
        outcome = await request.commands.settings.change_many(values, issued)
        request.ports.defaults.forget(issued.workspace_id)
        done = SettingsDone(f"Updated {outcome.answer.count} settings successfully")
        return accepted(outcome, done, outcome.answer.version, 200)

    @post(
        "/reset-to-defaults",
        status_code=200,
        summary="Let defaults hold again, of one category or of all",
        opt=may("settings:manage"),
    )
    async def reset(
        self, request: ApiRequest, category: AskedCategory = None
    ) -> Response[SettingsDone]:
        issued = await request.issued()
        outcome = await request.commands.settings.reset(category or None, issued)
        request.ports.defaults.forget(issued.workspace_id)
        done = SettingsDone(f"Reset {outcome.answer.count} settings to default values")
        return accepted(outcome, done, outcome.answer.version, 200)


class _Found:
    """A workspace's settings, as the read model has them."""

    def __init__(self, request: ApiRequest, view: View, row: SettingsRow) -> None:
        self._request = request
        self._view = view
        self.row = row

    @classmethod
    async def of(cls, request: ApiRequest) -> "_Found":
        view = request.view
        await view.fresh("settings")
        return cls(request, view, await view.ask(workspace_settings))

    def bodies(self) -> list[SettingBody]:
        installed = self._request.commands.settings.installed
        return [
            _body(each, self._view.workspace_id, self.row.touched.get(each.name))
            for each in told(self.row.settings, installed)
        ]

    def response(self, body: Any) -> Response[Any]:  # noqa: ANN401
        return self._view.response(body, ETag=f'"{self.row.version}"')


async def _answered(
    outcome: Outcome[SettingAnswer], request: ApiRequest, status: int
) -> Response[SettingBody]:
    """Tell a setting as it was decided, and of the read model only when it was touched."""
    view, setting = request.view, outcome.answer.setting
    request.ports.defaults.forget(view.workspace_id)
    await view.fresh("settings")
    row = await view.ask(workspace_settings)
    touched = row.touched.get(setting.name)
    body = _body(setting, view.workspace_id, touched)
    return accepted(outcome, body, outcome.answer.version, status)


def _body(setting: Told, workspace_id: WorkspaceId, touched: Touched | None) -> SettingBody:
    return SettingBody(
        id=setting_id(workspace_id, setting.name),
        category=setting.category,
        key=setting.key,
        value=setting.value,
        value_type=setting.value_type,
        description=setting.description,
        is_sensitive=setting.is_sensitive,
        is_required=setting.is_required,
        default_value=setting.default,
        validation_rules=setting.rules,
        created_at=touched and touched.created_at,
        created_by=touched and touched.created_by,
        updated_at=touched and touched.updated_at,
        updated_by=touched and touched.updated_by,
        effective_value=setting.effective,
        source=setting.source,
        is_system=setting.is_system,
    )


def _grouped(bodies: Sequence[SettingBody]) -> dict[str, list[SettingBody]]:
    grouped: dict[str, list[SettingBody]] = {}
    for body in bodies:
        grouped.setdefault(body.category, []).append(body)
    return grouped


def _text(value: Scalar | None) -> str | None:
    """Spell a value as JSON does; text as it is."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
