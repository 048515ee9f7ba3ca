"""The log itself: pages of it, and the live stream. Both are read by global position."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from time import monotonic
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, JSONBody, QueryParameter

from commands.transact import UnreadableEvent
from domain.catalog import EVENT_TYPES, AnyEvent
from domain.errors import NotFound
from domain.events import Recorded, StreamId, WorkspaceId
from read_api.asked import ApiRequest
from read_api.auth import RECORDS_NOTHING, Principal, may
from read_api.errors import BadCursor, BadParameter, of_unreadable
from read_api.reads import EventLog
from read_api.streams import EventStream
from read_api.tickets import BY_TICKET, TicketBody, TicketWanted, ticket_for
from read_api.view import POSITION

PAGE_MAX = 1_000
SCANNED_MAX = 10_000
"""Events one request looks through for those that its filters want."""

STREAM_PAGE_FIRST = 8
STREAM_PAGE_MAX = 200
STREAM_PAGE_BYTES_MAX = 128 * 1024
"""Events read at once for a stream, and what they may come to: a page is in memory until the
client has taken it. The first one is small, because nothing is known of their sizes yet."""

HEARTBEAT_S = 15.0
RETRY_MS = 3_000
RETRY_SOON_MS = 2_000
"""Told to who is sent away because the server stops: another one is there."""

UNREADABLE = b'id: %d\nevent: unreadable\ndata: {"position": %d}\n\n'
"""Sent in the place of an event that cannot be read: a stream that broke off there would be
opened again at the same place for ever."""

POLL_S = 1.0
"""How soon an event is noticed that nothing told of."""

LAST_EVENT_ID_FORM = {"pattern": "^[0-9]{0,18}$"}
POSITION_FORM = {"pattern": f"^{POSITION.pattern}$"}
Cursor = Annotated[
    str | None,
    QueryParameter(description="A position: events after it are given", schema_extra=POSITION_FORM),
]
Time = Annotated[str | None, QueryParameter(schema_extra={"format": "date-time"})]
"""Text here, because Litestar reads a number as seconds since 1970."""


class EventBody(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its envelope. Personal fields in `data` are sealed."""

    position: int
    event_id: str
    type: str
    stream_id: str
    stream_version: int
    workspace_id: str
    actor: str
    correlation_id: str
    causation_id: str | None
    command_id: str
    occurred_at: datetime
    schema_version: int
    data: msgspec.Raw


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    next_cursor: Ask for what comes after it; None at the end of the log.
    as_of_position: Head of the log when the page was read.
    """

    items: list[EventBody]
    next_cursor: str | None
    as_of_position: int


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    since, until: When it occurred: from the one, up to but not at the other.
    """

    stream: str | None = None
    type: str | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def wants(self, recorded: Recorded[AnyEvent]) -> bool:
        metadata = recorded.metadata
        return (
            (self.stream is None or recorded.stream_id == self.stream)
            and (self.type is None or recorded.event.tag() == self.type)
            and (self.actor is None or metadata.actor == self.actor)
            and (self.since is None or metadata.occurred_at >= self.since)
            and (self.until is None or metadata.occurred_at < self.until)
        )


class EventController(Controller):
    path = "/api/events"
    tags = ("events",)

    @get("/", summary="Page through the workspace's events, oldest first", opt=may("events:read"))
    async def page(
        self,
        request: ApiRequest,
        wanted: NamedDependency[EventFilter],
        cursor: Cursor = None,
        limit: Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)] = 100,
    ) -> Response[EventPage]:
        principal = request.principal
        event_log = request.ports.log
        # Read first, so that whoever goes on from it misses nothing appended meanwhile.
        head = await event_log.head()
        found, passed, ended = await _scan(
            event_log, principal, wanted, after=_position(cursor, "/query/cursor"), limit=limit
        )
        body = EventPage(
            items=[event_body(recorded) for recorded in found],
            next_cursor=None if ended else str(passed),
            as_of_position=head,
        )
        headers = {"X-Event-Position": str(head)}
        if not ended:
            headers["Link"] = _next(request, passed)
        return Response(body, headers=headers)

    @get(
        "/stream",
        summary="Follow the workspace's events as they are recorded (SSE)",
        media_type="text/event-stream",
        opt=may("events:read") | {BY_TICKET: True},
    )
    async def stream(
        self,
        request: ApiRequest,
        wanted: NamedDependency[EventFilter],
        after: Cursor = None,
        last_event_id: Annotated[
            str | None,
            HeaderParameter(name="Last-Event-ID", schema_extra=LAST_EVENT_ID_FORM),
        ] = None,
    ) -> EventStream:
        """Send what comes after `Last-Event-ID`, else after `after`, else from the beginning."""
        principal = request.principal
        event_log = request.ports.log
        if last_event_id:
            begin = _position(last_event_id, "/header/Last-Event-ID")
        else:
            begin = _position(after, "/query/after")
        frames = follow(event_log, principal, wanted, after=begin, closing=request.closing)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return EventStream(
            frames, principal, request.places, headers=headers, ended=request.standing().end
        )

    @post(
        "/ticket",
        status_code=200,
        summary="Get a one-time ticket for the stream, for who can send no header",
        opt=may("events:read") | RECORDS_NOTHING,
    )
    async def ticket(self, data: JSONBody[TicketWanted], request: ApiRequest) -> TicketBody:
        """Give the ticket as `?ticket=` of the stream's URL, once and within its time."""
        return await ticket_for(request.tickets, request.principal, data)


def provide_filter(
    stream: Annotated[str | None, QueryParameter(max_length=1024)] = None,
    type_: Annotated[
        str | None, QueryParameter(name="type", schema_extra={"enum": sorted(EVENT_TYPES)})
    ] = None,
    actor: Annotated[str | None, QueryParameter(max_length=255)] = None,
    since: Time = None,
    until: Time = None,
) -> EventFilter:
    """Raises:
    BadParameter: No event has the type, or a time is none, or has no zone.
    """
    if type_ is not None and type_ not in EVENT_TYPES:
        raise BadParameter("No event has this type.", "/query/type")
    return EventFilter(
        stream=stream,
        type=type_,
        actor=actor,
        since=_time(since, "/query/since"),
        until=_time(until, "/query/until"),
    )


async def follow(
    event_log: EventLog,
    principal: Principal,
    wanted: EventFilter,
    *,
    after: int,
    closing: Callable[[], bool],
    heartbeat_s: float = HEARTBEAT_S,
) -> AsyncGenerator[bytes, None]:
    """Give the log's events as SSE frames, and then new ones as they come.

    What is sent is always read from the log, so a frame is neither lost nor
    sent twice, however often a client comes back; being woken is only a hint.
    """
    workspace_id = principal.workspace_id
    yield f"retry: {RETRY_MS}\n\n".encode()
    if after > await event_log.head():
        yield b'event: reset\ndata: {"reason": "the position is beyond the log\'s end"}\n\n'
        after = 0
    quiet_since = asyncio.get_running_loop().time()
    limit = STREAM_PAGE_FIRST
    while not closing():
        seen = event_log.last_write(workspace_id)
        frames, passed, count = await _read(event_log, principal, wanted, after, limit)
        now = asyncio.get_running_loop().time()
        if frames or now - quiet_since >= heartbeat_s:
            quiet_since = now
            yield frames or b": heartbeat\n\n"
        if count:
            after, limit = passed, _fitting(limit, len(frames) // count)
        else:
            await _news(event_log, workspace_id, seen, timeout_s=min(POLL_S, heartbeat_s))
    yield f"retry: {RETRY_SOON_MS}\n\n".encode()


async def _read(
    event_log: EventLog, principal: Principal, wanted: EventFilter, after: int, limit: int
) -> tuple[bytes, int, int]:
    """Read a page as frames, which are all that is kept of it while the client takes them; tell
    also the position passed and how many events there were.
    """
    try:
        page = await event_log.read_workspace(principal.workspace_id, after=after, limit=limit)
    except UnreadableEvent as error:
        if limit > 1:
            return await _read(event_log, principal, wanted, after, 1)
        of_unreadable(error)
        return UNREADABLE % (error.position, error.position), error.position, 1
    frames = b"".join(_frame(recorded) for recorded in page if wanted.wants(recorded))
    return frames, page[-1].global_position if page else after, len(page)


def _fitting(limit: int, event_bytes: int) -> int:
    """Tell how many events the next page may have, if they are as large as the last ones."""
    fitting = STREAM_PAGE_BYTES_MAX // max(1, event_bytes)
    return max(1, min(2 * limit, fitting, STREAM_PAGE_MAX))


async def _news(
    event_log: EventLog, workspace_id: WorkspaceId, seen: int, *, timeout_s: float
) -> None:
    """Wait until the workspace has come further than was seen, or the time is over.

    Others' appends wake us, too, and are no reason to read the log.
    """
    deadline = monotonic() + timeout_s
    while event_log.last_write(workspace_id) == seen and (left := deadline - monotonic()) > 0:
        await event_log.changed(left)


def _frame(recorded: Recorded[AnyEvent]) -> bytes:
    data = _encoder.encode(event_body(recorded))
    return b"id: %d\ndata: %b\n\n" % (recorded.global_position, data)


_encoder = msgspec.json.Encoder()


def event_body(recorded: Recorded[AnyEvent]) -> EventBody:
    metadata = recorded.metadata
    return EventBody(
        position=recorded.global_position,
        event_id=recorded.event_id,
        type=recorded.event.tag(),
        stream_id=recorded.stream_id,
        stream_version=recorded.stream_version,
        workspace_id=metadata.workspace_id,
        actor=metadata.actor,
        correlation_id=metadata.correlation_id,
        causation_id=metadata.causation_id,
        command_id=metadata.command_id,
        occurred_at=metadata.occurred_at,
        schema_version=recorded.schema_version,
        data=msgspec.Raw(_encoder.encode(recorded.event)),
    )


async def _scan(
    event_log: EventLog, principal: Principal, wanted: EventFilter, *, after: int, limit: int
) -> tuple[list[Recorded[AnyEvent]], int, bool]:
    """Look for wanted events; tell also the position passed, and whether the log ended there."""
    if wanted.stream is not None:
        _check_stream(wanted.stream, principal)
    found: list[Recorded[AnyEvent]] = []
    for _ in range(SCANNED_MAX // PAGE_MAX):
        page = await event_log.read_workspace(principal.workspace_id, after=after, limit=PAGE_MAX)
        for recorded in page:
            if len(found) == limit:
                return found, after, False
            after = recorded.global_position
            if wanted.wants(recorded):
                found.append(recorded)
        if len(page) < PAGE_MAX:
            return found, after, True
    return found, after, False


def _check_stream(stream_id: str, principal: Principal) -> None:
    """Answer for another workspace's stream as for one that does not exist."""
    owner = StreamId(stream_id).partition("+")[0].partition("-")[2]
    if owner != principal.workspace_id:
        raise NotFound("Stream", stream_id)


def _next(request: Request[Any, Any, Any], passed: int) -> str:
    """Link to the next page, under the same filters (RFC 8288)."""
    kept = [(name, v) for name, v in request.query_params.multi_items() if name != "cursor"]
    return f'</api/events?{urlencode([*kept, ("cursor", passed)])}>; rel="next"'


def _time(text: str | None, pointer: str) -> datetime | None:
    try:
        moment = None if text is None else msgspec.convert(text, datetime)
    except msgspec.ValidationError as error:
        raise BadParameter("A time is spelled 2026-01-31T12:00:00Z.", pointer) from error
    if moment is not None and moment.tzinfo is None:
        raise BadParameter("A time needs its zone: 2026-01-31T12:00:00Z.", pointer)
    return moment


def _position(cursor: str | None, pointer: str) -> int:
    if cursor is None:
        return 0
    if not POSITION.fullmatch(cursor):
        raise BadCursor("A cursor is a position: a whole number.", pointer)
    return int(cursor)
