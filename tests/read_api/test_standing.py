"""A live stream ends soon after whoever reads it may not any more, and says so."""

import asyncio
import time
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from domain.events import WorkspaceId
from infra.clerk_tokens import LEEWAY_S
from read_api.auth import Caller, Principal
from read_api.standing import Standing
from tests.read_api.conftest import (
    WAIT_MAX_S,
    Served,
    Tenant,
    assert_problem,
    clerk_settings,
    serving,
)
from tests.read_api.test_identity import body, joined, logged_in
from tests.tokens import make_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = "/api/events/stream"
WITHIN_S = 5.0
SIGNING = make_key()
ENDED = 'event: ended\ndata: {"reason": "the credentials do not open this any more"}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("standing")
    async with serving(folder, clerk_settings(folder, SIGNING), tenants=8) as made:
        yield made


class Reader:
    """Reads a stream to its end, whenever that is."""

    def __init__(self, client: httpx.AsyncClient, **params: str) -> None:
        self.text = ""
        self.began = asyncio.Event()
        self._reading = asyncio.create_task(self._read(client, params))

    async def _read(self, client: httpx.AsyncClient, params: dict[str, str]) -> None:
        async with client.stream("GET", STREAM, params=params) as answer:
            assert answer.status_code == 200
            async for text in answer.aiter_text():
                self.text += text
                self.began.set()

    async def begun(self) -> "Reader":
        async with asyncio.timeout(WAIT_MAX_S):
            beginning = asyncio.create_task(self.began.wait())
            await asyncio.wait((beginning, self._reading), return_when=asyncio.FIRST_COMPLETED)
        if self._reading.done():
            await self._reading
        return self

    @property
    def goes_on(self) -> bool:
        return not self._reading.done()

    async def ended(self) -> None:
        """Wait for the end; it comes in time and is told."""
        begun = monotonic()
        async with asyncio.timeout(WAIT_MAX_S):
            await self._reading
        assert monotonic() - begun < WITHIN_S
        assert self.text.rstrip().endswith(ENDED)

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait((self._reading,))


async def test_streams_of_a_revoked_key_end_and_those_of_another_go_on(
    served: Served, tenant: Tenant
) -> None:
    made = await body(
        await tenant.http.post("/api/api-keys", json={"name": "k", "scopes": ["read"]}), 201
    )
    revoked = [await Reader(served.client(made["key"])).begun() for _ in range(3)]
    kept = await Reader(tenant.http).begun()
    assert (await tenant.http.delete(f"/api/api-keys/{made['id']}")).status_code == 200
    await asyncio.gather(*(each.ended() for each in revoked))
    assert kept.goes_on
    assert_problem(await served.client(made["key"]).get(STREAM), 401, "not_authenticated")
    await kept.close()


async def test_a_stream_that_a_ticket_opened_ends_with_the_key_it_was_given_to(
    served: Served, tenant: Tenant
) -> None:
    made = await body(
        await tenant.http.post("/api/api-keys", json={"name": "k", "scopes": ["read"]}), 201
    )
    holder = served.client(made["key"])

    async def ticket() -> str:
        given: str = (await body(await holder.post("/api/events/ticket", json={})))["ticket"]
        return given

    unused = await ticket()
    reader = await Reader(served.client(), ticket=await ticket()).begun()
    assert (await tenant.http.delete(f"/api/api-keys/{made['id']}")).status_code == 200
    await reader.ended()
    late = await served.client().get(STREAM, params={"ticket": unused})
    assert_problem(late, 401, "not_authenticated")


async def test_a_stream_ends_when_its_session_token_expires(served: Served) -> None:
    # What is left of it is within what clocks may differ by.
    now = time.time()
    expiring = logged_in(served, "user_expiring", iat=now - 60, exp=now - LEEWAY_S + 2)
    reader = await Reader(expiring).begun()
    await reader.ended()
    assert_problem(await expiring.get("/api/users/me"), 401, "not_authenticated")


async def test_a_member_s_stream_ends_when_he_is_removed_and_goes_on_in_his_own_workspace(
    served: Served,
) -> None:
    owner = logged_in(served, "user_host")
    guest = await joined(served, owner, "user_guest", "viewer")
    own = await Reader(logged_in(served, "user_guest")).begun()
    reader = await Reader(guest).begun()
    user_id = (await body(await guest.get("/api/users/me")))["id"]
    path = f"/api/workspaces/current/members/{user_id}"
    assert (await owner.put(path, json={"role": "editor"})).status_code == 200
    assert (await owner.delete(path)).status_code == 200
    await reader.ended()
    assert own.goes_on
    await own.close()


# Whom it asks.


SOMEBODY = Principal(workspace_id=WorkspaceId("acme"), actor="key:k")


class Register:
    """An authenticator whose answers are the test's."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    async def caller(self, credential: str, *, from_browser: bool = False) -> Caller | None:
        raise AssertionError(credential, from_browser)

    async def still(self, principal: Principal) -> Principal | None:
        assert principal is SOMEBODY
        answer: Any = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        match answer:
            case None:
                return None
            case asyncio.Event():
                await answer.wait()
            case Exception():
                raise answer
            case _:
                return msgspec.structs.replace(SOMEBODY, permissions=answer)
        raise AssertionError(answer)


MAY, MAY_NOT = frozenset({"events:read"}), frozenset({"agents:read"})


@pytest.mark.parametrize(
    "answers",
    [
        (MAY, MAY, None),
        (MAY, MAY_NOT),
        (MAY, OSError("away"), MAY, OSError("away"), None),
    ],
)
async def test_it_is_over_when_he_may_not_and_not_because_one_look_failed(answers: Any) -> None:
    register = Register(*answers)
    standing = Standing(register, SOMEBODY, "events:read", every_s=0, unconfirmed_max_s=WAIT_MAX_S)
    async with asyncio.timeout(WAIT_MAX_S):
        await standing.end()
    assert len(register.answers) == 1


@pytest.mark.parametrize("answer", [OSError("away"), asyncio.Event()])
async def test_it_is_over_when_nobody_can_tell_for_long(answer: Any) -> None:
    standing = Standing(Register(answer), SOMEBODY, "events:read", every_s=0, unconfirmed_max_s=0.1)
    begun = monotonic()
    async with asyncio.timeout(WAIT_MAX_S):
        await standing.end()
    assert monotonic() - begun >= 0.1
    assert standing.over
