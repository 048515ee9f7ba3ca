"""API keys: what opens one workspace, as far as their scopes go, until they expire."""

from datetime import datetime, timedelta
from typing import ClassVar, NewType, TypeAlias, assert_never

import msgspec

from domain.errors import Invalid, NotFound, TooMany
from domain.events import Aggregate, Event, Personal
from domain.identity.permissions import Scope

KeyId = NewType("KeyId", str)

KEYS_MAX = 20
"""Of one workspace that still open it."""

USE_NOTED_EVERY = timedelta(hours=1)

ALL_SCOPES: tuple[Scope, ...] = ("read", "write", "run", "admin")


# Events.


class ApiKeyCreated(Event, frozen=True, kw_only=True, tag="api_key_created"):
    """A key that opens the workspace was made, and told once.

    Attributes:
        holder: Whom the key was made for.
        secret_hash: HMAC-SHA-256 of the whole key under the installation's pepper, hex.
        last_four: Last characters of the secret, to tell keys apart by.
        expires_at: None for a key of an embedded installation, which lasts.
        replaces: The key that this one comes instead of.
    """

    subject_field: ClassVar[str] = "key_id"

    key_id: KeyId
    name: str
    holder: Personal[str]
    secret_hash: str
    last_four: str
    scopes: tuple[Scope, ...] = ALL_SCOPES
    expires_at: datetime | None = None
    replaces: KeyId | None = None


class ApiKeyExpirySet(Event, frozen=True, kw_only=True, tag="api_key_expiry_set"):
    """A key ends earlier than it was made to: another one has come instead of it."""

    key_id: KeyId
    expires_at: datetime


class ApiKeyRevoked(Event, frozen=True, kw_only=True, tag="api_key_revoked"):
    """A key opens nothing any more."""

    key_id: KeyId


class ApiKeyUsed(Event, frozen=True, kw_only=True, tag="api_key_used"):
    """A key opened its workspace. Noted once in a while, not at every request."""

    key_id: KeyId
    used_at: datetime


KeyEvent: TypeAlias = ApiKeyCreated | ApiKeyExpirySet | ApiKeyRevoked | ApiKeyUsed


# State.


class Key(msgspec.Struct, frozen=True):
    name: str
    scopes: tuple[Scope, ...]
    expires_at: datetime | None
    used_at: datetime | None = None


class KeyRing(msgspec.Struct, frozen=True):
    """The keys of one workspace.

    Attributes:
        keys: Those that are not revoked.
        revoked: Those that are.
    """

    keys: dict[KeyId, Key] = {}
    revoked: frozenset[KeyId] = frozenset()


def evolve(state: KeyRing, event: KeyEvent) -> KeyRing:
    match event:
        case ApiKeyCreated():
            made = Key(event.name, event.scopes, event.expires_at)
            return KeyRing({**state.keys, event.key_id: made}, state.revoked)
        case ApiKeyExpirySet():
            return _changed(state, event.key_id, expires_at=event.expires_at)
        case ApiKeyRevoked():
            left = {each: key for each, key in state.keys.items() if each != event.key_id}
            return KeyRing(left, state.revoked | {event.key_id})
        case ApiKeyUsed():
            return _changed(state, event.key_id, used_at=event.used_at)
        case _:
            assert_never(event)


def _changed(state: KeyRing, key_id: KeyId, **changes: datetime) -> KeyRing:
    known = state.keys.get(key_id)
    if known is None:
        return state
    changed = msgspec.structs.replace(known, **changes)
    return KeyRing({**state.keys, key_id: changed}, state.revoked)


KEY_RING: Aggregate[KeyRing, KeyEvent] = Aggregate(
    category="api_keys", initial=KeyRing(), evolve=evolve
)


# Decisions.


def create_key(state: KeyRing, *, created: ApiKeyCreated, now: datetime) -> tuple[KeyEvent, ...]:
    """Make a key.

    Raises:
        Invalid: It opens nothing, or has expired already.
        TooMany: The workspace has so many keys at most.
    """
    if created.key_id in state.keys or created.key_id in state.revoked:
        return ()
    if not created.scopes:
        raise Invalid("A key has a scope.", pointer="/scopes")
    if created.expires_at is not None and created.expires_at <= now:
        raise Invalid("A key expires in the future.", pointer="/expires_at")
    if sum(not _is_over(key, now) for key in state.keys.values()) >= KEYS_MAX:
        raise TooMany("API keys", KEYS_MAX)
    return (created,)


def rotate_key(
    state: KeyRing, *, created: ApiKeyCreated, old_until: datetime, now: datetime
) -> tuple[KeyEvent, ...]:
    """Make a key instead of another, which goes on for a while.

    Args:
        created: The new one; `replaces` names the old one.

    Raises:
        NotFound: There is no such key, or it opens nothing any more.
    """
    if created.key_id in state.keys or created.key_id in state.revoked:
        return ()
    old_id = created.replaces
    old = state.keys.get(old_id) if old_id is not None else None
    if old_id is None or old is None or _is_over(old, now):
        raise NotFound("API key", old_id or "")
    until = old_until if old.expires_at is None else min(old_until, old.expires_at)
    made = msgspec.structs.replace(created, scopes=old.scopes, name=old.name)
    return (made, ApiKeyExpirySet(key_id=old_id, expires_at=until))


def revoke_key(state: KeyRing, *, key_id: KeyId) -> tuple[KeyEvent, ...]:
    if key_id in state.revoked:
        return ()
    if key_id not in state.keys:
        raise NotFound("API key", key_id)
    return (ApiKeyRevoked(key_id=key_id),)


def note_use(state: KeyRing, *, key_id: KeyId, now: datetime) -> tuple[KeyEvent, ...]:
    """Note that a key is in use, unless that was noted lately."""
    known = state.keys.get(key_id)
    if known is None or (known.used_at is not None and now - known.used_at < USE_NOTED_EVERY):
        return ()
    return (ApiKeyUsed(key_id=key_id, used_at=now),)


def _is_over(key: Key, now: datetime) -> bool:
    return key.expires_at is not None and key.expires_at <= now
