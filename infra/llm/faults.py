"""Why a provider gave no whole answer, in the words of the port."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING, Final

from commands.processes.model_calls import FailureKind
from domain.events import JsonObject
from infra.llm.json_values import as_object, as_text

if TYPE_CHECKING:
    import httpx2

RETRY_AFTER_S_MAX: Final = 60.0


class Fault(Exception):
    """Why no whole answer came, before what had arrived is added to it."""

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind,
        retry_after_s: float | None = None,
        in_doubt: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.retry_after_s = retry_after_s
        self.in_doubt = in_doubt


def transport_fault(error: BaseException | None) -> Fault:
    """Sort a failure of the connection by whether the request had been sent."""
    import httpx2  # noqa: PLC0415

    name = type(error).__name__
    match error:
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return Fault(f"no connection ({name})", kind="connection")
        case httpx2.TimeoutException():
            return Fault(f"the provider took too long ({name})", kind="timeout", in_doubt=True)
        case httpx2.DecodingError():
            return Fault("the body cannot be decompressed", kind="malformed", in_doubt=True)
        case _:
            return Fault(f"the connection broke ({name})", kind="connection", in_doubt=True)


_KIND_BY_STATUS: Final[Mapping[int, FailureKind]] = {
    401: "authentication",
    403: "authentication",
    408: "timeout",
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}


def status_fault(response: "httpx2.Response", body: object) -> Fault:
    status = response.status_code
    otherwise: FailureKind = (
        "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request"
    )
    return Fault(
        f"status {status}: {_said(body)}",
        kind=_KIND_BY_STATUS.get(status, otherwise),
        retry_after_s=retry_after_s(response.headers.get("retry-after", "")),
        in_doubt=status == HTTPStatus.REQUEST_TIMEOUT,
    )


def retry_after_s(header: str) -> float | None:
    """Seconds to wait, at most 60, from seconds or an HTTP date; None when it is neither."""
    try:
        seconds = float(header)
    except ValueError:
        return _seconds_until(header)
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX) if isfinite(seconds) else None


def _seconds_until(http_date: str) -> float | None:
    try:
        date = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    left = (date - datetime.now(UTC)).total_seconds()
    return min(max(left, 0.0), RETRY_AFTER_S_MAX)


_KIND_BY_NAME: Final[Mapping[str, FailureKind]] = {
    "authentication_error": "authentication",
    "invalid_request_error": "invalid_request",
    "not_found_error": "invalid_request",
    "overloaded_error": "overloaded",
    "permission_error": "authentication",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "timeout_error": "timeout",
}


def told_fault(error: JsonObject, *, begun: bool) -> Fault:
    """An error inside a 200, billed perhaps if the answer had begun."""
    name = as_text(error.get("type")) or as_text(error.get("code"))
    return Fault(
        f"{name or 'error'} in the answer: {_said(error)}",
        kind=_KIND_BY_NAME.get(name, "server_error"),
        in_doubt=begun,
    )


def _said(body: object) -> str:
    error = as_object(body)
    message = as_text(as_object(error.get("error")).get("message")) or as_text(error.get("message"))
    return message[:300] or "no reason given"


def malformed(what: str) -> Fault:
    return Fault(what, kind="malformed", in_doubt=True)
