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
_INSPECT: frozenset[Permission] = frozenset({"keys:read", "settings:read"})
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


OPERATE: frozenset[Permission] = frozenset({"system:read"})
"""What concerns all workspaces together, so no workspace of one tenant gives it: only one of
those who operate the installation, to its owners, its admins, and its keys for administration."""


def of_role(role: Role, *, operates: bool = False) -> frozenset[Permission]:
    """Tell what a member may do.

    Args:
        operates: In a workspace of those who operate the installation.
    """
    return OF_ROLE[role] | OPERATE if operates and role in {"owner", "admin"} else OF_ROLE[role]


def of_scopes(scopes: Iterable[Scope], *, operates: bool = False) -> frozenset[Permission]:
    """Tell what a key with these scopes may do.

    Args:
        operates: In a workspace of those who operate the installation.
    """
    held = frozenset(scopes)
    found = frozenset[Permission]().union(*(OF_SCOPE[scope] for scope in held))
    return found | OPERATE if operates and "admin" in held else found
