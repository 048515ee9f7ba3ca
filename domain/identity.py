"""Identity, as far as one local workspace needs it: the workspace and its API keys."""

from typing import ClassVar, NewType, TypeAlias, assert_never

import msgspec

from domain.errors import NotFound
from domain.events import Aggregate, Event, Personal, WorkspaceId

KeyId = NewType("KeyId", str)


# Events.


class InstallationOpened(Event, frozen=True, kw_only=True, tag="installation_opened"):
    """Recorded once, in the platform workspace, when an installation first starts."""

    local_workspace_id: WorkspaceId


class WorkspaceCreated(Event, frozen=True, kw_only=True, tag="workspace_created"):
    """A workspace came into being."""

    workspace_id: WorkspaceId
    name: str


class ApiKeyCreated(Event, frozen=True, kw_only=True, tag="api_key_created"):
    """A key that opens the workspace was made, and told once.

    Attributes:
        holder: Whom the key was made for.
        secret_hash: HMAC-SHA-256 of the whole key under the installation's pepper, hex.
        last_four: Last characters of the secret, to tell keys apart by.
    """

    subject_field: ClassVar[str] = "key_id"

    key_id: KeyId
    name: str
    holder: Personal[str]
    secret_hash: str
    last_four: str


class ApiKeyRevoked(Event, frozen=True, kw_only=True, tag="api_key_revoked"):
    """A key opens nothing any more."""

    key_id: KeyId


IdentityEvent: TypeAlias = InstallationOpened | WorkspaceCreated | ApiKeyCreated | ApiKeyRevoked


# State.


class Unopened(msgspec.Struct, frozen=True, tag=True):
    pass


class Opened(msgspec.Struct, frozen=True, tag=True):
    local_workspace_id: WorkspaceId


InstallationState: TypeAlias = Unopened | Opened


def evolve_installation(state: InstallationState, event: IdentityEvent) -> InstallationState:
    return Opened(event.local_workspace_id) if isinstance(event, InstallationOpened) else state


INSTALLATION: Aggregate[InstallationState, IdentityEvent] = Aggregate(
    category="installation", initial=Unopened(), evolve=evolve_installation
)


class NoWorkspace(msgspec.Struct, frozen=True, tag=True):
    pass


class Workspace(msgspec.Struct, frozen=True, tag=True):
    name: str


WorkspaceState: TypeAlias = NoWorkspace | Workspace


def evolve_workspace(state: WorkspaceState, event: IdentityEvent) -> WorkspaceState:
    return Workspace(event.name) if isinstance(event, WorkspaceCreated) else state


WORKSPACE: Aggregate[WorkspaceState, IdentityEvent] = Aggregate(
    category="workspace", initial=NoWorkspace(), evolve=evolve_workspace
)


class NoKey(msgspec.Struct, frozen=True, tag=True):
    pass


class ValidKey(msgspec.Struct, frozen=True, tag=True):
    secret_hash: str


class RevokedKey(msgspec.Struct, frozen=True, tag=True):
    pass


KeyState: TypeAlias = NoKey | ValidKey | RevokedKey


def evolve_key(state: KeyState, event: IdentityEvent) -> KeyState:
    match event:
        case ApiKeyCreated():
            return ValidKey(event.secret_hash)
        case ApiKeyRevoked():
            return RevokedKey()
        case InstallationOpened() | WorkspaceCreated():
            return state
        case _:
            assert_never(event)


API_KEY: Aggregate[KeyState, IdentityEvent] = Aggregate(
    category="api_key", initial=NoKey(), evolve=evolve_key
)


# Decisions.


def open_installation(
    state: InstallationState, *, local_workspace_id: WorkspaceId
) -> tuple[IdentityEvent, ...]:
    """Open once: whoever comes second finds the first one's workspace."""
    if isinstance(state, Opened):
        return ()
    return (InstallationOpened(local_workspace_id=local_workspace_id),)


def create_workspace(
    state: WorkspaceState, *, workspace_id: WorkspaceId, name: str
) -> tuple[IdentityEvent, ...]:
    if isinstance(state, Workspace):
        return ()
    return (WorkspaceCreated(workspace_id=workspace_id, name=name),)


def create_key(state: KeyState, *, created: ApiKeyCreated) -> tuple[IdentityEvent, ...]:
    return (created,) if isinstance(state, NoKey) else ()


def revoke_key(state: KeyState, *, key_id: KeyId) -> tuple[IdentityEvent, ...]:
    match state:
        case NoKey():
            raise NotFound("API key", key_id)
        case ValidKey():
            return (ApiKeyRevoked(key_id=key_id),)
        case RevokedKey():
            return ()
        case _:
            assert_never(state)
