"""One-time tickets in PostgreSQL: for any number of processes, where there is no Redis."""

import asyncio
import secrets
from typing import Final, LiteralString

import psycopg

from infra.postgres.connections import CONNECTING, BoundedConnection
from infra.tickets import Kept, Seals, cannot_keep, hash_ticket
from read_api.auth import Principal
from read_api.tickets import TICKET_BYTES, TICKET_LIFE_S

CONNECTIONS_MAX: Final = 4
"""At once, by one process; others wait. A ticket is for a stream, so there are few."""

FAULTS = (psycopg.Error, OSError, TimeoutError)

_ISSUE: LiteralString = """
WITH expired AS (DELETE FROM tickets WHERE expires_at <= clock_timestamp())
INSERT INTO tickets VALUES (%s, %s, clock_timestamp() + %s * interval '1 second')
"""
_REDEEM: LiteralString = (
    "DELETE FROM tickets WHERE digest = %s RETURNING sealed, expires_at > clock_timestamp()"
)


class DatabaseTickets:
    """Implements `read_api.tickets.Tickets`. The database gives each ticket away once.

    Args:
        secret: The installation's own; a key is derived from it.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        self._url = url
        self._seals = Seals(secret)
        self._turns = asyncio.Semaphore(CONNECTIONS_MAX)

    async def issue(self, principal: Principal, path: str) -> str:
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        digest = hash_ticket(ticket)
        sealed = self._seals.seal(digest, Kept(principal, path))
        await self._execute(_ISSUE, digest, sealed, TICKET_LIFE_S)
        return ticket

    async def redeem(self, ticket: str, path: str) -> Principal | None:
        digest = hash_ticket(ticket)
        found = await self._execute(_REDEEM, digest)
        if found is None or not found[1]:
            return None
        kept = self._seals.open(digest, bytes(found[0]))
        return None if kept is None or kept.path != path else kept.principal

    async def aclose(self) -> None:
        """Nothing is held open."""

    async def _execute(
        self, statement: LiteralString, *values: object
    ) -> tuple[bytes, bool] | None:
        try:
            async with self._turns:
                connection = await BoundedConnection.connect(self._url, **CONNECTING)
                async with connection:
                    cursor = await connection.execute(statement, values)
                    row = await cursor.fetchone() if cursor.description else None
        except FAULTS as error:
            raise cannot_keep(error) from None
        return None if row is None else (row[0], row[1])
