"""Who is asking: one guard before every route, and the circumstances of a command."""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Protocol, runtime_checkable

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import HeaderParameter

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


@runtime_checkable  # Litestar checks what it injects with isinstance.
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


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request through only with a valid key, and into that key's workspace only.

    Raises:
        NotAuthenticated: No key, or not a valid one.
        ForeignWorkspace: The request names a workspace the key does not open.
    """
    if handler.opt.get(PUBLIC):
        return
    key = _key(connection)
    reader: KeyReader = connection.app.state.key_reader
    principal = await reader.principal(key) if key else None
    if principal is None:
        raise NotAuthenticated("Send a valid API key as X-API-Key or as Authorization: Bearer.")
    named = connection.headers.get("x-workspace-id"), connection.query_params.get("workspace_id")
    if any(name and name != principal.workspace_id for name in named):
        raise ForeignWorkspace("The API key does not open the workspace that was named.")
    connection.scope["auth"] = principal


def _key(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    key = connection.headers.get("x-api-key")
    if key:
        return key
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() in {"bearer", "apikey"} else ""


def provide_principal(request: Request[Any, Any, Any]) -> Principal:
    principal = request.scope["auth"]
    assert isinstance(principal, Principal)
    return principal


IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="8 to 128 letters, digits, _ or -. Repeat it to repeat a request safely.",
    ),
]
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", description="The ETag of what you saw: refused with 412 if it changed."
    ),
]


async def provide_issued(
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
) -> Issued:
    """Gather the circumstances of a command from its request.

    Raises:
        BadHeader: Idempotency-Key or If-Match is malformed.
    """
    circumstances: Circumstances = request.app.state.circumstances
    fingerprint = None
    if idempotency_key is None:
        command_id = circumstances.new_uuid()
    else:
        command_id = _command_id(request, principal, idempotency_key)
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
