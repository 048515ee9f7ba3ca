"""Who may do what: one table for the roles of members, one for the scopes of keys."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["owner", "admin", "editor", "viewer", "auditor"]
Scope: TypeAlias = Literal["read", "write", "run", "admin"]

Permission: TypeAlias = Literal[
    "agents:read",
    "agents:create",
    "agents:update",
    "agents:delete",
    "workflows:read",
    "workflows:create",
    "workflows:update",
    "workflows:delete",
    "workflows:execute",
    "executions:read",
    "executions:cancel",
    "usage:read",
    "events:read",
    "workspace:read",
    "workspace:manage",
    "members:read",
    "members:manage",
    "keys:read",
    "keys:manage",
    "settings:read",
    "settings:manage",
    "system:read",
]
"""`<subject>:<action>`, the original's spelling."""

_LOOK: frozenset[Permission] = frozenset(
    {
        "agents:read",
        "workflows:read",
        "executions:read",
        "usage:read",
        "events:read",
        "workspace:read",
        "members:read",
    }
)
_CHANGE: frozenset[Permission] = frozenset(
    {
        "agents:create",
        "agents:update",
        "agents:delete",
        "workflows:create",
        "workflows:update",
        "workflows:delete",
    }
)
_RUN: frozenset[Permission] = frozenset({"workflows:execute", "executions:cancel"})
_INSPECT: frozenset[Permission] = frozenset({"keys:read", "settings:read", "system:read"})
_MANAGE: frozenset[Permission] = frozenset(
    {"workspace:manage", "members:manage", "keys:manage", "settings:manage"}
)

OF_ROLE: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        "owner": _LOOK | _CHANGE | _RUN | _INSPECT | _MANAGE,
        "admin": _LOOK | _CHANGE | _RUN | _INSPECT | _MANAGE,
        "editor": _LOOK | _CHANGE | _RUN,
        "viewer": _LOOK,
        # Sees all that is kept of the workspace, and changes none of it.
        "auditor": _LOOK | _INSPECT,
    }
)
"""An owner differs from an admin in who may make and unmake owners: see `workspaces`."""

OF_SCOPE: Mapping[Scope, frozenset[Permission]] = MappingProxyType(
    {"read": _LOOK, "write": _CHANGE, "run": _RUN, "admin": _INSPECT | _MANAGE}
)


def of_scopes(scopes: Iterable[Scope]) -> frozenset[Permission]:
    """Tell what a key with these scopes may do."""
    return frozenset[Permission]().union(*(OF_SCOPE[scope] for scope in scopes))
