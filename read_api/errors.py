"""Every refusal as RFC 9457 problem details. The only place that knows both sides."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.enums import ParamType
from litestar.exceptions import HTTPException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.plugins.problem_details import (
    ProblemDetailsConfig,
    ProblemDetailsException,
    ProblemDetailsPlugin,
)

from commands.transact import (
    CommandError,
    Congested,
    KeyInFlight,
    KeyReused,
    StorageFull,
    StorageUnavailable,
    UnreadableEvent,
)
from domain.errors import (
    AgentIsArchived,
    AlreadyExists,
    DomainError,
    InvitationIsOver,
    LastOwner,
    NameIsTaken,
    NotAllowed,
    NotFound,
    RunIsFinished,
    SettingIsRequired,
    StreamConflict,
    TooLong,
    TooMany,
    VersionMismatch,
    WorkflowIsArchived,
    WorkflowIsNotPublished,
)
from read_api.methods import with_head

log = structlog.get_logger(__name__)

RETRY_AFTER_S = "2"
TOO_LARGE = "Payload too large"
"""The original's words."""

PROBLEMS = "/docs/problems#"
"""Where each problem type is explained."""


class ApiError(Exception):
    """A request that fails before any rule is asked."""

    status = HTTPStatus.BAD_REQUEST
    code = "bad_request"
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer


class NotAuthenticated(ApiError):
    """No valid credentials."""

    status = HTTPStatus.UNAUTHORIZED
    code = "not_authenticated"


class ForeignWorkspace(ApiError):
    """Valid credentials, but not for the workspace that was named."""

    status = HTTPStatus.FORBIDDEN
    code = "foreign_workspace"


class NotPermitted(ApiError):
    """Valid credentials, for somebody who may not do this."""

    status = HTTPStatus.FORBIDDEN
    code = "not_permitted"

    def __init__(self, permission: str) -> None:
        super().__init__(f"This needs the permission {permission}.")


class BadHeader(ApiError):
    """A header that does not have its form."""

    code = "bad_header"


class BadCursor(ApiError):
    """A position that is not one."""

    code = "bad_cursor"


class BadParameter(ApiError):
    """A path, query or header parameter that does not have its form."""

    code = "bad_parameter"


class BadBody(ApiError):
    """A body that is not JSON, or not of the shape the route takes."""

    code = "bad_body"


class TooManyStreams(ApiError):
    """As many live streams are open as a key, or a workspace, may have at once."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_streams"


class TooManyRuns(ApiError):
    """As many runs are going on as a workspace may have at once."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_runs"


class RateLimited(ApiError):
    """More requests than are allowed in this time."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limited"


class BodyTooLarge(ApiError):
    """The body is larger than the route takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"


class UrlTooLong(ApiError):
    """The path and the query together are too long."""

    status = HTTPStatus.REQUEST_URI_TOO_LONG
    code = "url_too_long"


class HeadersTooLarge(ApiError):
    """All headers together are too large."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "headers_too_large"


class EncodedBody(ApiError):
    """The body is compressed, or encoded in another way."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "encoded_body"


class RequestTooSlow(ApiError):
    """The request did not arrive in the time it has."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "request_too_slow"


STATUS: dict[type[Exception], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    AlreadyExists: HTTPStatus.CONFLICT,
    NameIsTaken: HTTPStatus.CONFLICT,
    AgentIsArchived: HTTPStatus.CONFLICT,
    WorkflowIsArchived: HTTPStatus.CONFLICT,
    WorkflowIsNotPublished: HTTPStatus.CONFLICT,
    RunIsFinished: HTTPStatus.CONFLICT,
    SettingIsRequired: HTTPStatus.CONFLICT,
    LastOwner: HTTPStatus.CONFLICT,
    InvitationIsOver: HTTPStatus.CONFLICT,
    TooMany: HTTPStatus.CONFLICT,
    NotAllowed: HTTPStatus.FORBIDDEN,
    StreamConflict: HTTPStatus.CONFLICT,
    VersionMismatch: HTTPStatus.PRECONDITION_FAILED,
    TooLong: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    KeyInFlight: HTTPStatus.CONFLICT,
    Congested: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageFull: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Every other refusal of a rule is a 422."""


def of_domain(error: DomainError) -> ProblemDetailsException:
    status = STATUS.get(type(error), HTTPStatus.UNPROCESSABLE_ENTITY)
    return _problem(status, error.code, str(error), error.pointer)


def of_command(error: CommandError) -> ProblemDetailsException:
    status = STATUS.get(type(error), HTTPStatus.SERVICE_UNAVAILABLE)
    problem = _problem(status, error.code, str(error))
    if status == HTTPStatus.SERVICE_UNAVAILABLE or isinstance(error, KeyInFlight):
        problem.headers = {"Retry-After": RETRY_AFTER_S}
    return problem


def of_api(error: ApiError) -> ProblemDetailsException:
    problem = _problem(error.status, error.code, str(error), error.pointer)
    if error.status == HTTPStatus.UNAUTHORIZED:
        problem.headers = {"WWW-Authenticate": 'Bearer realm="automatos"'}
    elif error.status == HTTPStatus.TOO_MANY_REQUESTS:
        problem.headers = {"Retry-After": RETRY_AFTER_S, **error.headers}
    return problem


def of_unreadable(error: UnreadableEvent) -> ProblemDetailsException:
    """Answer where an event cannot be read: no use to try again, and our fault, not the caller's.

    The log has the reason, once in each process.
    """
    place = error.stream_id, error.position
    if place not in _told and len(_told) < TOLD_MAX:
        _told.add(place)
        log.error(
            "an event cannot be read",
            stream_id=error.stream_id,
            position=error.position,
            error=str(error),
        )
    detail = f"Event {error.position} of the stream {error.stream_id} cannot be read."
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, error.code, detail)


def of_http(error: HTTPException) -> ProblemDetailsException:
    """Translate what the framework itself refuses: routes, methods, parameters, sizes."""
    if isinstance(error, ProblemDetailsException):
        return error
    status = HTTPStatus(error.status_code)
    if isinstance(error, ValidationException):
        return _of_validation(error)
    if isinstance(error, RequestEntityTooLarge):
        return of_api(BodyTooLarge(TOO_LARGE))
    detail = error.detail if status < HTTPStatus.INTERNAL_SERVER_ERROR else _UNEXPECTED
    problem = _problem(status, _CODES.get(status, status.name.lower()), detail)
    problem.headers = error.headers
    if status == HTTPStatus.METHOD_NOT_ALLOWED and error.headers:
        problem.headers = {"Allow": with_head(error.headers["allow"])}
    return problem


def _of_validation(error: ValidationException) -> ProblemDetailsException:
    faults: list[Any] = error.extra if isinstance(error.extra, list) else []
    if any(fault.get("source") == "body" for fault in faults):
        # A body of the wrong shape never comes here: it is decoded before, by StrictRequest.
        return of_api(BadBody("The route needs a JSON body.", pointer=""))
    errors = [{"pointer": _place(fault), "detail": fault["message"]} for fault in faults]
    detail = errors[0]["detail"] if errors else error.detail
    problem = _problem(HTTPStatus.BAD_REQUEST, BadParameter.code, str(detail))
    assert isinstance(problem.extra, dict)
    problem.extra["errors"] = errors
    return problem


def _place(fault: dict[str, Any]) -> str:
    """Point into the request as into a document: `/query/limit`, `/path/agent_id`."""
    source = fault.get("source")
    return f"/{ParamType(source).value if source else ''}/{fault.get('key', '')}"


def unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Answer for our own mistake: the log has the reason, the caller its id."""
    log.error("a request failed unexpectedly", path=request.url.path, exc_info=error)
    problem = _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", _UNEXPECTED)
    return problem.to_response(request)


def _problem(
    status: HTTPStatus, code: str, detail: str, pointer: str | None = None
) -> ProblemDetailsException:
    errors = [] if pointer is None else [{"pointer": pointer, "detail": detail}]
    return ProblemDetailsException(
        status_code=status,
        type_=PROBLEMS + code,
        title=status.phrase,
        detail=detail,
        extra={"code": code, "errors": errors},
    )


def missing(kind: str) -> ProblemDetailsException:
    """Answer for a thing that is not there, or is another workspace's: the two look alike."""
    return of_domain(NotFound(kind, ""))


_UNEXPECTED = "Something went wrong on our side. Quote the request id when you report it."
_CODES = {
    HTTPStatus.NOT_FOUND: "no_such_route",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
}

TOLD_MAX = 1_000
"""Events that a process tells of in its log; a log with more of them has been told of enough."""

_told: set[tuple[str, int]] = set()

problem_details = ProblemDetailsPlugin(
    ProblemDetailsConfig(
        exception_to_problem_detail_map={
            DomainError: of_domain,
            CommandError: of_command,
            UnreadableEvent: of_unreadable,
            ApiError: of_api,
            HTTPException: of_http,
        }
    )
)
