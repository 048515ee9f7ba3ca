"""Who operates an installation, as the log tells it: whose keys open what concerns all tenants."""

from collections.abc import Awaitable, Callable

from commands.transact import EventStore
from domain.events import PLATFORM_WORKSPACE, WorkspaceId
from domain.identity import INSTALLATION, KEY_RING, Opened
from infra.clock import utc_now


async def local_workspace(store: EventStore) -> WorkspaceId | None:
    """Find the installation's local workspace; None before it is made."""
    stream_id = INSTALLATION.stream_id(PLATFORM_WORKSPACE, "local")
    state = (await store.load(INSTALLATION, stream_id)).state
    return state.local_workspace_id if isinstance(state, Opened) else None


def platform_and_local(store: EventStore) -> Callable[[], Awaitable[frozenset[WorkspaceId]]]:
    """Give the operators' workspaces of an installation where nobody logs in.

    Its keys are made on its own command line, so the local workspace is the operator's.
    """

    async def operating() -> frozenset[WorkspaceId]:
        local = await local_workspace(store)
        return frozenset({PLATFORM_WORKSPACE} if local is None else {PLATFORM_WORKSPACE, local})

    return operating


async def has_key(store: EventStore) -> bool:
    """Tell whether a key was made on the command line that opens something now."""
    now = utc_now()
    for workspace_id in await platform_and_local(store)():
        ring = await store.load(KEY_RING, KEY_RING.stream_id(workspace_id, "all"))
        for key in ring.state.keys.values():
            if key.expires_at is None or key.expires_at > now:
                return True
    return False
