"""One-time tickets for live streams: a browser's EventSource sends no header, so no key either."""

import re
from typing import TYPE_CHECKING, Annotated, Final, Protocol
from urllib.parse import parse_qs

import msgspec

if TYPE_CHECKING:
    # The guard knows this module, and principals are the guard's.
    from read_api.auth import Principal

TICKET_LIFE_S: Final = 30
TICKET_BYTES: Final = 16
TICKET: Final = re.compile(r"[A-Za-z0-9_-]{22}")
"""The bytes in base64url."""

BY_TICKET: Final = "by_ticket"
"""Route option: a ticket opens it, too."""

STREAM_PATH: Final = "/api/events/stream"
PATH_MAX: Final = 256
QUERY_FIELDS_MAX: Final = 50


class TicketWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    path: Of the one stream that the ticket is to open, without its query.
    """

    path: Annotated[
        str, msgspec.Meta(pattern=r"^/api(/[A-Za-z0-9_.-]+)+\Z", max_length=PATH_MAX)
    ] = STREAM_PATH


class TicketBody(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    ticket: Shown once; goes into the stream's query as `ticket`.
    expires_in: Seconds.
    """

    ticket: str
    expires_in: int


class Tickets(Protocol):
    """Tickets that have been given out, in all processes that serve one installation."""

    async def issue(self, principal: "Principal", path: str) -> str:
        """Give out a ticket.

        Raises:
            StorageUnavailable: It cannot be kept.
        """
        ...

    async def redeem(self, ticket: str, path: str) -> "Principal | None":
        """Tell whom a ticket was given to. Whatever comes of it, it is used up.

        Raises:
            StorageUnavailable: It cannot be looked up.
        """
        ...


async def ticket_for(tickets: Tickets, principal: "Principal", wanted: TicketWanted) -> TicketBody:
    ticket = await tickets.issue(principal, wanted.path)
    return TicketBody(ticket=ticket, expires_in=TICKET_LIFE_S)


async def holder(tickets: Tickets, path: str, query: bytes) -> "Principal | None":
    """Exchange the ticket in a query for the principal it was given to.

    None if there is none, more than one, or not a valid one.
    """
    ticket = _ticket(query)
    return None if ticket is None else await tickets.redeem(ticket, path.rstrip("/"))


def _ticket(query: bytes) -> str | None:
    if b"ticket=" not in query:
        return None
    try:
        given = parse_qs(query.decode("latin-1"), max_num_fields=QUERY_FIELDS_MAX).get("ticket", [])
    except ValueError:
        return None
    return given[0] if len(given) == 1 and TICKET.fullmatch(given[0]) else None
