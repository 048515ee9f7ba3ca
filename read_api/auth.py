"""Who is asking: one guard before every route, and the circumstances of a command."""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

import msgspec
from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from commands.transact import Issued
from domain.events import CommandId, Metadata, WorkspaceId
from read_api.errors import BadHeader, ForeignWorkspace, NotAuthenticated

PUBLIC = "public"
"""Route option: answered without a key."""

IDEMPOTENCY_KEY = re.compile(r'^"?[A-Za-z0-9_-]{8,128}"?$')
IF_MATCH = re.compile(r'^"(\d{1,18})"$')


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    actor: Spelled `key:<id>`; recorded with every event.
    """

    workspace_id: WorkspaceId
    actor: str


class Admitted(NamedTuple):
    """What the guard leaves in the scope as `auth`.

    Attributes:
        headers: Those that concern commands, queries and keys, by lower-case name: read once,
            because Litestar looks into a lock and two caches at every `request.headers`.
    """

    principal: Principal
    headers: dict[bytes, str]


class KeyReader(Protocol):
    async def principal(self, key: str) -> Principal | None:
        """Tell whose API key this is; None for any that is not valid now."""
        ...


class Circumstances(msgspec.Struct, frozen=True):
    """Attributes:
    now: UTC.
    new_uuid: Gives time-ordered UUIDs.
    """

    now: Callable[[], datetime]
    new_uuid: Callable[[], str]


def guard(app: ASGIApp, reader: KeyReader) -> ASGIApp:
    """Let a request through only with a valid key, and into that key's workspace only.

    A layer before every route, not one of Litestar's guards, which copy the
    route for each request. What it lets through finds its principal in the scope.
    """

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["route_handler"].opt.get(PUBLIC):
            scope["auth"] = await _authenticated(scope, reader)
        await app(scope, receive, send)

    return handle


async def _authenticated(scope: Scope, reader: KeyReader) -> Admitted:
    """Tell who asks.

    Raises:
        NotAuthenticated: No key, or not a valid one.
        ForeignWorkspace: The request names a workspace the key does not open.
    """
    given = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ}
    key = _key(given)
    principal = await reader.principal(key) if key else None
    if principal is None:
        raise NotAuthenticated("Send a valid API key as X-API-Key or as Authorization: Bearer.")
    if not _names_only(principal.workspace_id, given, scope["query_string"]):
        raise ForeignWorkspace("The API key does not open the workspace that was named.")
    return Admitted(principal, given)


_READ = frozenset(
    {
        b"x-api-key",
        b"authorization",
        b"x-workspace-id",
        b"idempotency-key",
        b"if-match",
        b"min-position",
    }
)


def _names_only(workspace_id: WorkspaceId, given: dict[bytes, str], query: bytes) -> bool:
    """Tell whether no other workspace is named, in the header or in the query."""
    named = given.get(b"x-workspace-id")
    if named and named != workspace_id:
        return False
    if b"workspace_id" not in query:
        return True
    asked = parse_qs(query.decode("latin-1")).get("workspace_id", [])
    return all(name == workspace_id for name in asked)


def _key(given: dict[bytes, str]) -> str:
    key = given.get(b"x-api-key")
    if key:
        return key
    scheme, _, credentials = given.get(b"authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() in {"bearer", "apikey"} else ""


IDEMPOTENCY_KEY_HEADER = "Idempotency-Key"
IF_MATCH_HEADER = "If-Match"


async def issued(
    request: Request[Any, Any, Any], admitted: Admitted, circumstances: Circumstances
) -> Issued:
    """Gather the circumstances of a command from its request.

    Raises:
        BadHeader: Idempotency-Key or If-Match is malformed.
    """
    principal, headers = admitted
    key, if_match = headers.get(b"idempotency-key"), headers.get(b"if-match")
    command_id, fingerprint = circumstances.new_uuid(), None
    if key is not None:
        command_id = _command_id(request, principal, key)
        fingerprint = _digest(await request.body(), (if_match or "").encode())
    return Issued(
        metadata=Metadata(
            workspace_id=principal.workspace_id,
            actor=principal.actor,
            correlation_id=request.scope["state"]["request_id"],
            command_id=CommandId(command_id),
            occurred_at=circumstances.now(),
        ),
        fingerprint=fingerprint,
        if_version=None if if_match is None else _version(if_match),
    )


def _command_id(request: Request[Any, Any, Any], principal: Principal, key: str) -> str:
    """Derive a command id that only a repetition of the same request can have."""
    if not IDEMPOTENCY_KEY.match(key):
        raise BadHeader(
            "Idempotency-Key has 8 to 128 letters, digits, _ or -.", "/header/Idempotency-Key"
        )
    route = f"{request.method} {request.url.path}?{request.url.query}"
    scope = (principal.workspace_id, principal.actor, route, key.strip('"'))
    return "key-" + _digest(*(part.encode() for part in scope))


def _version(if_match: str) -> int:
    match = IF_MATCH.match(if_match)
    if match is None:
        raise BadHeader('If-Match is an ETag in quotes, such as "3".', "/header/If-Match")
    return int(match[1])


def _digest(*parts: bytes) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "big") + part)
    return sha.hexdigest()
