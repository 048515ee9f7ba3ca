"""Who is asking: one guard before every route, and the circumstances of a command."""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias
from urllib.parse import parse_qs

import msgspec
from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from commands.transact import Issued
from domain.events import CommandId, Metadata, WorkspaceId
from domain.identity import KeyId, Permission, Role, UserId
from read_api.errors import BadHeader, ForeignWorkspace, NotAuthenticated, NotPermitted
from read_api.tickets import BY_TICKET, Tickets, holder

PUBLIC = "public"
"""Route option: answered without credentials."""

PERMISSION = "permission"
"""Route option: what the caller must be permitted to; every other route has it."""

RECORDS_NOTHING: Final = {"records_nothing": True}
"""Route option of a POST that is no command: no Idempotency-Key, no If-Match."""

ANYBODY: Final = "anybody"
"""A permission that whoever has valid credentials has."""

IDEMPOTENCY_KEY = re.compile(r'^"?[A-Za-z0-9_-]{8,128}"?$')
IF_MATCH = re.compile(r'^"(\d{1,18})"$')


def may(permission: Permission | Literal["anybody"]) -> dict[str, str]:
    """Make the route option that demands a permission."""
    return {PERMISSION: permission}


AuthType: TypeAlias = Literal["clerk", "api_key", "env_key"]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody in one workspace.

    Attributes:
        actor: Spelled `user:<id>` or `key:<id>`; recorded with every event.
        role: Of a key: `admin` if its scopes go that far, else None.
        user_id: None for a key.
        email: As the token tells it; empty if it does not.
        expires_at: When the credentials end; None if they do not.
    """

    workspace_id: WorkspaceId
    actor: str
    auth_type: AuthType = "api_key"
    permissions: frozenset[Permission] = frozenset()
    role: Role | None = None
    user_id: UserId | None = None
    key_id: KeyId | None = None
    email: str = ""
    expires_at: datetime | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody, and the workspaces among which he may choose.

    Attributes:
        home: The one he is in when a request names none.
    """

    home: WorkspaceId
    principals: Mapping[WorkspaceId, Principal]


class Admitted(NamedTuple):
    """What the guard leaves in the scope as `auth`.

    Attributes:
        headers: Those that concern commands, queries and keys, by lower-case name: read once,
            because Litestar looks into a lock and two caches at every `request.headers`.
    """

    principal: Principal
    headers: dict[bytes, str]


class Authenticator(Protocol):
    async def caller(self, credential: str, *, from_browser: bool = False) -> Caller | None:
        """Tell whose API key or session token this is; None for any that is not valid now.

        Args:
            from_browser: A page asks, so a session token must name the page's origin.
        """
        ...

    async def still(self, principal: Principal) -> Principal | None:
        """Tell what somebody who was let in may do now; None if it is nothing any more.

        Bounded, and cheap enough to be asked every second for each live stream: what is looked
        up is looked up once for all of a principal's.
        """
        ...


class Circumstances(msgspec.Struct, frozen=True):
    """Attributes:
    now: UTC.
    new_uuid: Gives time-ordered UUIDs.
    new_secret: Gives 256 random bits, spelled for a URL.
    """

    now: Callable[[], datetime]
    new_uuid: Callable[[], str]
    new_secret: Callable[[], str]


def guard(app: ASGIApp, authenticator: Authenticator, tickets: Tickets) -> ASGIApp:
    """Let a request through only with valid credentials, into a workspace of the caller's, and to
    do what he may do there.

    A layer before every route, not one of Litestar's guards, which copy the
    route for each request. What it lets through finds its principal in the scope.
    """

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        opt = scope["route_handler"].opt
        if not opt.get(PUBLIC):
            admitted = await _authenticated(scope, authenticator)
            if admitted is None and opt.get(BY_TICKET):
                admitted = await _ticketed(scope, authenticator, tickets)
            if admitted is None:
                raise NotAuthenticated(CREDENTIALS_WANTED)
            permission = opt[PERMISSION]
            if permission not in admitted.principal.permissions and permission != ANYBODY:
                raise NotPermitted(permission)
            scope["auth"] = admitted
        await app(scope, receive, send)

    return handle


async def _authenticated(scope: Scope, authenticator: Authenticator) -> Admitted | None:
    """Tell who asks; None without valid credentials.

    Raises:
        ForeignWorkspace: The request names a workspace that is not the caller's.
    """
    given = _given(scope)
    credential = _credential(given)
    if not credential:
        return None
    caller = await authenticator.caller(credential, from_browser=b"origin" in given)
    if caller is None:
        return None
    named = _named(given, scope["query_string"])
    if any(name not in caller.principals for name in named):
        raise ForeignWorkspace(FOREIGN)
    return Admitted(caller.principals[named[0] if named else caller.home], given)


async def _ticketed(
    scope: Scope, authenticator: Authenticator, tickets: Tickets
) -> Admitted | None:
    """Tell who asks, unless the credentials that the ticket was given for have ended since.

    Raises:
        ForeignWorkspace: The request names another workspace than the ticket was given for.
    """
    principal = await holder(tickets, scope["path"], scope["query_string"])
    now = None if principal is None else await authenticator.still(principal)
    if now is None:
        return None
    if any(name != now.workspace_id for name in _named(_given(scope), scope["query_string"])):
        raise ForeignWorkspace(FOREIGN)
    return Admitted(now, {})


def _given(scope: Scope) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ}


CREDENTIALS_WANTED = (
    "Send a session token as Authorization: Bearer, or an API key so or as X-API-Key."
)

FOREIGN = "The credentials do not open the workspace that was named."

_READ = frozenset(
    {
        b"x-api-key",
        b"authorization",
        b"x-workspace-id",
        b"idempotency-key",
        b"if-match",
        b"min-position",
        b"origin",
    }
)


def _named(given: Mapping[bytes, str], query: bytes) -> list[WorkspaceId]:
    """Give the workspaces that a request names, the one that counts first."""
    header = given.get(b"x-workspace-id")
    named = [WorkspaceId(header)] if header else []
    if b"workspace_id" in query:
        asked = parse_qs(query.decode("latin-1")).get("workspace_id", [])
        named += [WorkspaceId(name) for name in asked if name]
    return named


def _credential(given: dict[bytes, str]) -> str:
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
