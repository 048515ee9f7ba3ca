"""Claims: a name belongs to one thing of its kind in a workspace.

A claim is a stream of its own, one per (workspace, kind, folded name), appended
together with the stream of the thing that takes the name: so uniqueness is the
store's expected version and holds under any concurrency.
"""

import unicodedata
from functools import lru_cache
from typing import TypeAlias, assert_never

import msgspec

from domain.errors import NameIsTaken
from domain.events import Aggregate, Event, StreamId, WorkspaceId

FOLDED_CACHED_MAX = 1_024
"""A command folds its name several times over."""


class NameClaimed(Event, frozen=True, kw_only=True, tag="name_claimed"):
    """A thing took a name that was free."""

    kind: str
    name: str
    holder: str


class NameReleased(Event, frozen=True, kw_only=True, tag="name_released"):
    """A thing gave its name back."""

    kind: str
    name: str
    holder: str


ClaimEvent: TypeAlias = NameClaimed | NameReleased


class Free(msgspec.Struct, frozen=True, tag=True):
    pass


class Held(msgspec.Struct, frozen=True, tag=True):
    holder: str


ClaimState: TypeAlias = Free | Held


def evolve(_state: ClaimState, event: ClaimEvent) -> ClaimState:
    match event:
        case NameClaimed():
            return Held(event.holder)
        case NameReleased():
            return Free()
        case _:
            assert_never(event)


CLAIM: Aggregate[ClaimState, ClaimEvent] = Aggregate(
    category="claim", initial=Free(), evolve=evolve
)


@lru_cache(maxsize=FOLDED_CACHED_MAX)
def folded(name: str) -> str:
    """What two spellings of one name share: NFKC, case folded, white space collapsed."""
    # Folding takes some letters apart, so what it leaves is composed once more.
    composed = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(unicodedata.normalize("NFKC", composed).split())


def claim_stream(workspace_id: WorkspaceId, kind: str, name: str) -> StreamId:
    return CLAIM.stream_id(workspace_id, f"{kind}:{folded(name)}")


def claim(state: ClaimState, *, kind: str, name: str, holder: str) -> tuple[ClaimEvent, ...]:
    match state:
        case Free():
            return (NameClaimed(kind=kind, name=folded(name), holder=holder),)
        case Held(holder=known):
            if known == holder:
                return ()
            raise NameIsTaken(kind, name)
        case _:
            assert_never(state)


def release(state: ClaimState, *, kind: str, name: str, holder: str) -> tuple[ClaimEvent, ...]:
    """Give a name back; somebody else's claim is left alone."""
    if state != Held(holder):
        return ()
    return (NameReleased(kind=kind, name=folded(name), holder=holder),)
