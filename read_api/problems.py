"""What the documentation says of problems: a page on their types, and where they may come."""

from dataclasses import dataclass
from html import escape
from http import HTTPStatus

import msgspec
from litestar import MediaType, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIType, Operation, Parameter, Schema
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute

import commands.transact
import domain.errors
from commands.transact import CommandError, UnreadableEvent
from domain.errors import DomainError
from read_api import errors
from read_api.auth import (
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_KEY_HEADER,
    IF_MATCH,
    IF_MATCH_HEADER,
    PUBLIC,
    RECORDS_NOTHING,
)
from read_api.document import without_null
from read_api.errors import ApiError
from read_api.methods import ALLOWED, with_head
from read_api.view import MIN_POSITION_HEADER, POSITION

_OTHERS = {
    "no_such_route": "No route has this path.",
    "method_not_allowed": "The route does not take this method.",
    UnreadableEvent.code: (UnreadableEvent.__doc__ or "").partition("\n")[0],
    "internal_error": "Our own mistake; the log has the reason under the request id.",
}


MEDIA_TYPE = "application/problem+json"
ON_READING = (400, 401, 403, 404, 414, 429, 431, 503)
ON_COMMAND = (*ON_READING, 408, 409, 412, 413, 415, 422)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    pointer: JSON pointer to what is at fault: into the body, or `/query/…`, `/path/…` and
        `/header/…` for what is beside it.
    """

    pointer: str
    detail: str


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details.

    Attributes:
        type: Where the problem is explained.
        code: The same, for programs.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[Fault]


@dataclass
class Plain(Operation):
    """A route: a text among its parameters may be left out, and is never null."""

    def __post_init__(self) -> None:
        for parameter in self.parameters or []:
            if isinstance(parameter, Parameter) and isinstance(parameter.schema, Schema):
                parameter.schema = without_null(parameter.schema)


@dataclass
class Query(Plain):
    """A route that reads: every one of them takes Min-Position."""

    def __post_init__(self) -> None:
        super().__post_init__()
        text = "An X-Event-Position the answer should hold, or be X-Stale"
        _add(self, MIN_POSITION_HEADER, text, f"^{POSITION.pattern}$")


@dataclass
class Command(Plain):
    """A route that commands: every one of them takes Idempotency-Key and If-Match."""

    def __post_init__(self) -> None:
        super().__post_init__()
        text = "8 to 128 letters, digits, _ or -: to repeat it safely"
        _add(self, IDEMPOTENCY_KEY_HEADER, text, IDEMPOTENCY_KEY.pattern)
        text = "The ETag of what you saw: 412 if it has changed since"
        _add(self, IF_MATCH_HEADER, text, IF_MATCH.pattern.replace(r"\d", "[0-9]"))


@dataclass
class Public(Plain):
    """A route that is answered without credentials."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.security = []


def _add(operation: Operation, name: str, description: str, pattern: str) -> None:
    text = Schema(type=OpenAPIType.STRING, pattern=pattern)
    header = Parameter(name=name, param_in="header", schema=text, description=description)
    operation.parameters = [*(operation.parameters or []), header]


class _DocumentedProblems(ReceiveRoutePlugin):
    """Tells in the OpenAPI document how each route refuses, and which headers it reads."""

    def receive_route(self, route: BaseRoute) -> None:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                if "OPTIONS" in handler.http_methods:
                    # Litestar's own: it tells a path's methods, and nothing of what is there.
                    handler.opt |= {PUBLIC: True, ALLOWED: with_head(", ".join(route.methods))}
                elif handler.opt.get(PUBLIC):
                    handler.operation_class = Public
                else:
                    handler.responses = _refusals(handler)
                    handler.operation_class = _kind(handler)


def _kind(handler: HTTPRouteHandler) -> type[Operation]:
    if "GET" in handler.http_methods:
        return Query
    return Plain if RECORDS_NOTHING.items() <= handler.opt.items() else Command


documented_problems = _DocumentedProblems()


def _refusals(handler: HTTPRouteHandler) -> dict[int, ResponseSpec]:
    statuses = ON_READING if "GET" in handler.http_methods else ON_COMMAND
    return {
        status: ResponseSpec(
            ProblemBody,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
            media_type=MEDIA_TYPE,
        )
        for status in statuses
    }


def explained() -> dict[str, str]:
    """Explain every code: the first sentence of its error's docstring."""
    found = dict(_OTHERS)
    for module, base in (
        (domain.errors, DomainError),
        (commands.transact, CommandError),
        (errors, ApiError),
    ):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
                found[kind.code] = (kind.__doc__ or "").strip().partition("\n")[0]
    return dict(sorted(found.items()))


@get(
    "/docs/problems",
    media_type=MediaType.HTML,
    opt={PUBLIC: True},
    include_in_schema=False,
)
async def problems_page() -> str:
    rows = "".join(
        f'<dt id="{code}"><code>{code}</code></dt><dd>{escape(text)}</dd>'
        for code, text in explained().items()
    )
    return f"<!DOCTYPE html><title>Problem types</title><h1>Problem types</h1><dl>{rows}</dl>"
