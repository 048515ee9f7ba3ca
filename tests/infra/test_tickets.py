"""One-time tickets, in a process and in Redis: one contract for both places."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

import msgspec
import psycopg
import pytest
from redis import Redis

from commands.transact import StorageUnavailable
from infra.postgres.migrations import migrate
from infra.postgres.tickets import DatabaseTickets
from infra.tickets import KEPT_MAX, PREFIX, LocalTickets, RedisTickets
from read_api.auth import Principal
from read_api.tickets import (
    STREAM_PATH,
    TICKET,
    TICKET_LIFE_S,
    TicketBody,
    Tickets,
    TicketWanted,
    holder,
    ticket_for,
)
from tests.servers.fixtures import Private
from tests.servers.server import free_port

PATIENCE_S = 10.0
"""Far more than both tries may take together."""

SECRET = b"pepper" * 6
OTHER_PATH = "/api/executions/7/stream"


def principal(workspace_id: str, name: str) -> Principal:
    """Make one with everything a principal may have."""
    everything = {
        "workspace_id": workspace_id,
        "actor": f"user:{name}",
        "permissions": ["agents:read", "events:read"],
        "role": "viewer",
        "auth_type": "clerk",
        "user_id": name,
        "email": f"{name}@example.dev",
        "key_id": None,
    }
    return msgspec.convert(everything, Principal)


ADA, BOB = principal("acme", "ada"), principal("globex", "bob")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Place(NamedTuple):
    """Attributes:
    here, there: Two processes' views of one place; the same, where there is but one process.
    age: Let all tickets grow older by seconds.
    """

    here: Tickets
    there: Tickets
    age: Callable[[int], None]


Places: TypeAlias = AsyncIterator[Place]


@pytest.fixture(params=["local", "redis", "postgres"])
async def place(request: pytest.FixtureRequest) -> Places:
    if request.param == "local":
        clock = Clock()
        local = LocalTickets(clock=clock)
        yield Place(local, local, lambda seconds: setattr(clock, "now", clock.now + seconds))
        return
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        migrate(url)
        database = DatabaseTickets(url, SECRET)
        yield Place(database, DatabaseTickets(url, SECRET), lambda seconds: older(url, seconds))
        return
    url = request.getfixturevalue("redis_url")
    here, there = RedisTickets(url, SECRET), RedisTickets(url, SECRET)
    with Redis.from_url(url) as admin:
        yield Place(here, there, lambda seconds: age(admin, seconds))
    await here.aclose()
    await there.aclose()


def older(url: str, seconds: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        left = "UPDATE tickets SET expires_at = expires_at - %s * interval '1 second'"
        connection.execute(left, (seconds,))


def age(admin: Redis, seconds: int) -> None:
    """Bring forward when Redis forgets; it tells what is left in whole seconds, rounded."""
    for name in admin.keys(f"{PREFIX}*"):
        left = admin.ttl(name)
        assert left == pytest.approx(TICKET_LIFE_S, abs=5)
        admin.expire(name, left - seconds)


async def test_a_ticket_is_exchanged_for_whom_it_was_given_to(place: Place) -> None:
    of_ada = await place.here.issue(ADA, STREAM_PATH)
    of_bob = await place.here.issue(BOB, STREAM_PATH)
    assert await place.there.redeem(of_bob, STREAM_PATH) == BOB
    assert await place.there.redeem(of_ada, STREAM_PATH) == ADA


async def test_a_ticket_is_good_for_one_time(place: Place) -> None:
    ticket = await place.here.issue(ADA, STREAM_PATH)
    assert await place.here.redeem(ticket, STREAM_PATH) == ADA
    for tickets in (place.here, place.there):
        assert await tickets.redeem(ticket, STREAM_PATH) is None


async def test_of_many_who_come_with_one_ticket_one_is_let_in(place: Place) -> None:
    ticket = await place.here.issue(ADA, STREAM_PATH)
    each = [tickets.redeem(ticket, STREAM_PATH) for tickets in (place.here, place.there) * 20]
    assert sorted(await asyncio.gather(*each), key=bool)[-2:] == [None, ADA]


async def test_a_ticket_opens_its_own_path_and_is_used_up_at_another(place: Place) -> None:
    ticket = await place.here.issue(ADA, OTHER_PATH)
    assert await place.here.redeem(ticket, STREAM_PATH) is None
    assert await place.here.redeem(ticket, OTHER_PATH) is None


async def test_a_ticket_lives_for_half_a_minute(place: Place) -> None:
    young = await place.here.issue(ADA, STREAM_PATH)
    place.age(TICKET_LIFE_S - 6)
    assert await place.here.redeem(young, STREAM_PATH) == ADA
    old = await place.here.issue(ADA, STREAM_PATH)
    place.age(TICKET_LIFE_S)
    assert await place.here.redeem(old, STREAM_PATH) is None


@pytest.mark.parametrize("made_up", ["", "x", "A" * 22, "*", "é" * 22, "a\r\nDEL b"])
async def test_a_ticket_that_nobody_issued_opens_nothing(place: Place, made_up: str) -> None:
    await place.here.issue(ADA, STREAM_PATH)
    assert await place.here.redeem(made_up, STREAM_PATH) is None


async def test_no_two_tickets_are_the_same(place: Place) -> None:
    tickets = [await place.here.issue(ADA, STREAM_PATH) for _ in range(100)]
    assert len(set(tickets)) == 100
    assert all(TICKET.fullmatch(ticket) for ticket in tickets)


# Each place's own.


async def test_a_process_keeps_a_bounded_number_and_forgets_what_has_expired() -> None:
    clock = Clock()
    tickets = LocalTickets(clock=clock)
    oldest = await tickets.issue(ADA, STREAM_PATH)
    for _ in range(KEPT_MAX - 1):
        await tickets.issue(BOB, STREAM_PATH)
    newest = await tickets.issue(ADA, STREAM_PATH)
    assert len(tickets._kept) == KEPT_MAX
    assert await tickets.redeem(oldest, STREAM_PATH) is None
    assert await tickets.redeem(newest, STREAM_PATH) == ADA
    clock.now += TICKET_LIFE_S
    await tickets.issue(ADA, STREAM_PATH)
    assert len(tickets._kept) == 1


async def test_neither_the_ticket_nor_its_holder_can_be_read_in_redis(redis_url: str) -> None:
    tickets = RedisTickets(redis_url, SECRET)
    ticket = await tickets.issue(ADA, STREAM_PATH)
    with Redis.from_url(redis_url) as admin:
        [name] = admin.keys("*")
        stored = name + admin.get(name)
    for secret in (ticket, ADA.actor, ADA.workspace_id, STREAM_PATH):
        assert secret.encode() not in stored
    await tickets.aclose()


async def test_what_another_has_put_into_redis_opens_nothing(redis_url: str) -> None:
    ours, others = RedisTickets(redis_url, SECRET), RedisTickets(redis_url, SECRET[::-1])
    forged = await others.issue(ADA, STREAM_PATH)
    assert await ours.redeem(forged, STREAM_PATH) is None
    mine, yours = [await ours.issue(each, STREAM_PATH) for each in (ADA, BOB)]
    with Redis.from_url(redis_url) as admin:
        first, second = admin.keys("*")
        one, other = admin.mget(first, second)
        admin.mset({first: other, second: one})
    assert await ours.redeem(mine, STREAM_PATH) is None
    assert await ours.redeem(yours, STREAM_PATH) is None
    ticket = await ours.issue(ADA, STREAM_PATH)
    with Redis.from_url(redis_url) as admin:
        [name] = admin.keys("*")
        admin.set(name, b"short")
    assert await ours.redeem(ticket, STREAM_PATH) is None
    await ours.aclose()
    await others.aclose()


async def test_without_redis_no_ticket_is_given_and_none_is_taken() -> None:
    url = f"redis://:very-secret@127.0.0.1:{free_port()}"
    tickets = RedisTickets(url, SECRET)
    for asking in (tickets.issue(ADA, STREAM_PATH), tickets.redeem("A" * 22, STREAM_PATH)):
        with pytest.raises(StorageUnavailable) as refused:
            await asking
        assert "very-secret" not in str(refused.value)
    await tickets.aclose()


async def test_redis_that_was_begun_anew_takes_tickets_at_once(private_redis: Private) -> None:
    server = private_redis()
    tickets = RedisTickets(server.url, SECRET)
    await tickets.issue(ADA, STREAM_PATH)
    server.restart()
    ticket = await tickets.issue(ADA, STREAM_PATH)
    assert await tickets.redeem(ticket, STREAM_PATH) == ADA
    await tickets.aclose()


async def test_redis_that_hangs_is_not_waited_for(private_redis: Private) -> None:
    server = private_redis()
    tickets = RedisTickets(server.url, SECRET)
    ticket = await tickets.issue(ADA, STREAM_PATH)
    server.pause()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(StorageUnavailable):
            await tickets.redeem(ticket, STREAM_PATH)
    server.resume()
    await tickets.aclose()


async def test_a_database_that_is_away_is_said(postgres_url: str) -> None:
    tickets = DatabaseTickets(postgres_url.replace("@", "@nobody."), SECRET)
    with pytest.raises(StorageUnavailable):
        await tickets.issue(ADA, STREAM_PATH)


async def test_used_and_expired_tickets_leave_nothing_in_the_database(postgres_url: str) -> None:
    migrate(postgres_url)
    tickets = DatabaseTickets(postgres_url, SECRET)
    await tickets.redeem(await tickets.issue(ADA, STREAM_PATH), STREAM_PATH)
    await tickets.issue(ADA, STREAM_PATH)
    older(postgres_url, TICKET_LIFE_S)
    await tickets.issue(BOB, STREAM_PATH)
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT digest, sealed FROM tickets").fetchall()
    assert len(rows) == 1
    assert b"bob" not in rows[0][1]


# What the guard and the route call.


async def test_the_ticket_is_read_from_the_query() -> None:
    tickets = LocalTickets()
    body = await ticket_for(tickets, ADA, TicketWanted())
    assert body == TicketBody(ticket=body.ticket, expires_in=TICKET_LIFE_S)
    query = f"type=run_completed&ticket={body.ticket}".encode()
    assert await holder(tickets, STREAM_PATH + "/", query) == ADA
    assert await holder(tickets, STREAM_PATH, query) is None


@pytest.mark.parametrize(
    "query",
    [
        "",
        "ticket=",
        "ticket={ticket}&ticket={ticket}",
        "ticket={ticket}&ticket=x",
        "ticket={ticket}x",
        "ticket={ticket}%0A",
        "tickets={ticket}",
        "a=1&" * 100 + "ticket={ticket}",
        "ticket=%FF",
    ],
)
async def test_a_query_without_one_ticket_in_its_form_opens_nothing(query: str) -> None:
    tickets = LocalTickets()
    ticket = (await ticket_for(tickets, ADA, TicketWanted())).ticket
    asked = query.replace("{ticket}", ticket).encode()
    assert await holder(tickets, STREAM_PATH, asked) is None
    assert await holder(tickets, STREAM_PATH, f"ticket={quote(ticket)}".encode()) == ADA


@pytest.mark.parametrize(
    "path",
    ["", "/", "api/events", "/api", "/api/", "/api//a", "/api/a?b=c", "/api/a\n", "/x/a", "/api/é"],
)
def test_a_ticket_is_for_a_path_of_ours(path: str) -> None:
    assert msgspec.convert({"path": OTHER_PATH}, TicketWanted).path == OTHER_PATH
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"path": path}, TicketWanted)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"path": "/api/" + "a" * 300}, TicketWanted)
