"""The configuration that holds for the caller's workspace, and where each of its values is from."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, Response, get
from litestar.params import PathParameter, QueryParameter

from domain.effective import Installed, told
from domain.events import WorkspaceId
from domain.settings import SettingName, Source, setting_id
from projections.settings import SettingsRow, workspace_settings
from read_api.asked import ApiRequest
from read_api.auth import may
from read_api.errors import missing
from read_api.view import Skip

PAGE_MAX = 1_000
SEARCH_MAX = 255
KEY_MAX = 160
"""A category, a dot and a key, and some."""

DESCRIPTIONS: Mapping[str, str] = {
    "environment": "What the installation is for.",
    "llm_stream": "Models are asked for streamed answers.",
    "offline_when_no_key": "The built-in model answers for a provider without a key.",
    "body_max": "Bytes of a request body, where a route has no smaller bound.",
    "streams_per_workspace": "Live streams of a workspace at once, in one process.",
    "streams_per_key": "Live streams of one key at once, in one process.",
}


class ConfigBody(msgspec.Struct, frozen=True, kw_only=True):
    """The original's row, and the source of its value.

    Attributes:
        config_value: What holds, spelled as text; `********` for a sensitive one.
        updated_at, updated_by: Of what the workspace has set; else null.
    """

    id: int
    config_key: str
    config_value: str | None
    description: str
    is_active: bool = True
    created_at: datetime | None = None
    updated_at: datetime | None = None
    updated_by: str | None = None
    source: Source


class SystemConfigController(Controller):
    path = "/api/system/config"
    tags = ("settings",)

    @get("/", summary="List the effective configuration", opt=may("settings:read"))
    async def list_config(
        self,
        request: ApiRequest,
        skip: Skip = 0,
        limit: Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)] = 100,
        search: Annotated[str | None, QueryParameter(max_length=SEARCH_MAX)] = None,
    ) -> Response[list[ConfigBody]]:
        view = request.view
        await view.fresh("settings")
        row = await view.ask(workspace_settings)
        bodies = _bodies(row, request.commands.settings.installed, view.workspace_id)
        wanted = (search or "").casefold()
        found = [
            each for each in bodies if wanted in f"{each.config_key}\n{each.description}".casefold()
        ]
        return view.response(found[skip : skip + limit], **{"X-Total-Count": str(len(found))})

    @get("/{config_key:str}", summary="Read one of it", opt=may("settings:read"))
    async def read(
        self,
        config_key: Annotated[str, PathParameter(min_length=1, max_length=KEY_MAX)],
        request: ApiRequest,
    ) -> Response[ConfigBody]:
        view = request.view
        await view.fresh("settings")
        row = await view.ask(workspace_settings)
        for body in _bodies(row, request.commands.settings.installed, view.workspace_id):
            if body.config_key == config_key:
                return view.response(body)
        raise missing("Configuration")


def _bodies(row: SettingsRow, installed: Installed, workspace_id: WorkspaceId) -> list[ConfigBody]:
    chosen: list[ConfigBody] = []
    for setting in told(row.settings, installed):
        touched = row.touched.get(setting.name)
        chosen.append(
            ConfigBody(
                id=setting_id(workspace_id, setting.name),
                config_key=setting.name,
                config_value=setting.effective,
                description=setting.description,
                created_at=touched and touched.created_at,
                updated_at=touched and touched.updated_at,
                updated_by=touched and touched.updated_by,
                source=setting.source,
            )
        )
    others = [
        ConfigBody(
            id=setting_id(workspace_id, SettingName(key)),
            config_key=key,
            config_value=held.value,
            description=DESCRIPTIONS[key],
            source=held.source,
        )
        for key, held in installed.others.items()
    ]
    return chosen + others
