"""The installation: which workspace is the local one."""

from typing import TypeAlias

import msgspec

from domain.events import Aggregate, Event, WorkspaceId


class InstallationOpened(Event, frozen=True, kw_only=True, tag="installation_opened"):
    """Recorded once, in the platform workspace, when an installation first starts."""

    local_workspace_id: WorkspaceId


class Unopened(msgspec.Struct, frozen=True, tag=True):
    pass


class Opened(msgspec.Struct, frozen=True, tag=True):
    local_workspace_id: WorkspaceId


InstallationState: TypeAlias = Unopened | Opened


def evolve(_state: InstallationState, event: InstallationOpened) -> InstallationState:
    return Opened(event.local_workspace_id)


INSTALLATION: Aggregate[InstallationState, InstallationOpened] = Aggregate(
    category="installation", initial=Unopened(), evolve=evolve
)


def open_installation(
    state: InstallationState, *, local_workspace_id: WorkspaceId
) -> tuple[InstallationOpened, ...]:
    """Open once: whoever comes second finds the first one's workspace."""
    if isinstance(state, Opened):
        return ()
    return (InstallationOpened(local_workspace_id=local_workspace_id),)
