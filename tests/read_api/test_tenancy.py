"""Another tenant's thing answers exactly like one that nobody has, whoever asks and however.

Made from the OpenAPI document of the running server, so that a new route joins by itself.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from domain.events import WorkspaceId
from infra.composition import PROJECTORS
from infra.ids import new_uuid
from tests.read_api.conftest import (
    WAIT_MAX_S,
    Served,
    assert_problem,
    clerk_settings,
    serving,
    until,
)
from tests.read_api.test_identity import SIGNING, body
from tests.read_api.things import (
    HEADERS,
    MAKERS,
    NAMES_NOTHING,
    PLAIN,
    PLAIN_PATHS,
    Document,
    Name,
    Office,
    Operation,
    Place,
    nobodys,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROLES = ("admin", "editor", "viewer", "auditor")
INVITED_AS = ("viewer", "owner")
SCOPES = ("read", "write", "run", "admin")

OF_EACH_KIND = ("owner", "viewer", "key: read, write, run, admin")
"""Who is in which workspace is told before what he may do there, so that roles make no difference.
"""

CONDITIONS: tuple[Mapping[str, str], ...] = ({}, {"If-Match": '"1"'}, {"If-Match": '"99"'})
"""The first version is that of most foreign things; a condition must not tell."""

VARYING = {"date", "x-event-position", "x-request-id", "x-stale"}
"""Headers in which two answers to the same request differ, too."""

POSITION = re.compile(r'"as_of_position":\d+')


class World(NamedTuple):
    """Attributes:
    own: Where those who ask are.
    other: Another tenant's.
    foreign: One thing of each kind, of the other tenant.
    mine: One that a path can name, where something else is asked about.
    askers: A client of each role, and of a key with each scope.
    """

    served: Served
    document: Document
    own: Office
    other: Office
    foreign: dict[str, Name]
    mine: dict[str, Name]
    askers: dict[str, httpx.AsyncClient]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("tenancy")
    async with serving(folder, clerk_settings(folder, SIGNING)) as served:
        document = Document((await served.client().get("/docs/openapi.json")).json())
        own, other = await Office.opened(served), await Office.opened(served)
        foreign = {kind: await make(other) for kind, make in MAKERS.items()}
        # Who holds an invitation's secret is let in: nobody asks with this one.
        foreign["body:token"] = f"{str(foreign['body:token'])[:-4]}none"
        mine = {kind: await make(own) for kind, make in MAKERS.items() if kind.startswith("path:")}
        await _shown(served)
        yield World(served, document, own, other, foreign, mine, await _askers(own))


async def _askers(own: Office) -> dict[str, httpx.AsyncClient]:
    members = await asyncio.gather(*(own.member(role) for role in ROLES))
    askers = {"owner": own.owner} | dict(zip(ROLES, members, strict=True))
    for scopes in (*((scope,) for scope in SCOPES), SCOPES):
        made = await own.made("/api/api-keys", {"name": "k", "scopes": list(scopes)})
        askers[f"key: {', '.join(scopes)}"] = own.served.client(made["key"])
    return askers


async def test_no_invitation_moves_anybody_out_of_his_own_workspace(world: World) -> None:
    guest = await Office.opened(world.served)
    hosts = [await Office.opened(world.served) for _ in INVITED_AS]
    for host, role in zip(hosts, INVITED_AS, strict=True):
        wanted = {"email": "guest@x.org", "role": role}
        sent = await host.made("/api/workspaces/current/invitations", wanted)
        await guest.made("/api/invitations/accept", {"token": sent["token"]}, 200)

    async def is_let_in() -> bool:
        named = [{"X-Workspace-ID": host.workspace_id} for host in hosts]
        answers = [await guest.owner.get("/api/agents", headers=each) for each in named]
        return all(answer.status_code == 200 for answer in answers)

    await until(is_let_in)
    me = await body(await guest.owner.get("/api/users/me"))
    assert (me["workspace_id"], me["role"]) == (guest.workspace_id, "owner")
    listed = await body(await guest.owner.get("/api/workspaces"))
    assert len(listed) == 3
    assert listed[0]["id"] == guest.workspace_id


# What the document names.


async def test_whatever_may_name_a_tenants_thing_is_known_here(world: World) -> None:
    places, queries, headers = set[str](), set[str](), set[str]()
    for operation in world.document.operations():
        places |= {place.kind for place in world.document.places(operation)}
        parameters = world.document.parameters(operation)
        queries |= {p.partition(":")[2] for p in parameters if p.startswith("query:")}
        headers |= {p.partition(":")[2] for p in parameters if p.startswith("header:")}
    assert places == set(MAKERS), "a new one needs a maker in things.py"
    assert queries >= PLAIN
    assert headers == HEADERS


async def test_bodies_have_the_fields_that_are_said_to_name_nothing(world: World) -> None:
    text = (await world.served.client().get("/docs/openapi.json")).text
    for name in NAMES_NOTHING:
        assert f'"{name}":' in text


async def test_another_tenants_thing_answers_like_one_that_nobody_has(world: World) -> None:
    before = await _log_of(world)
    asked, told_apart = 0, list[str]()
    for operation, place in _questions(world):
        theirs = world.foreign[place.kind]
        unknown = nobodys(theirs)
        assert len(str(unknown)) == len(str(theirs))
        assert unknown != theirs
        for asker, client in world.askers.items():
            for condition in CONDITIONS if operation.verb != "get" else CONDITIONS[:1]:
                answers = [
                    await _asked(world, client, operation, place, name, condition)
                    for name in (theirs, unknown)
                ]
                asked += 1
                if answers[0] != answers[1]:
                    told_apart.append(f"{operation.verb} {operation.path} {place} as {asker}")
                    told_apart += map(str, answers)
    assert "\n".join(told_apart) == ""
    assert asked > len(MAKERS) * len(world.askers)
    assert await _log_of(world) == before, "nothing happened to the other tenant"


async def test_ones_own_thing_does_not_answer_like_one_that_nobody_has(world: World) -> None:
    """So the refusals above are for the name, and for nothing else in the request."""
    alike, never_let_in = list[str](), list[str]()
    for operation, place in _questions(world):
        let_in = 0
        for asker, client in world.askers.items():
            name = nobodys(world.foreign[place.kind])
            missing = await _asked(world, client, operation, place, name)
            if missing.status == 403:
                continue
            let_in += 1
            name = await MAKERS[place.kind](world.own)
            own = await _asked(world, client, operation, place, name, frames=True)
            if own == missing and operation.verb == "get":
                # A read model may be late on a busy machine.
                await _shown(world.served)
                own = await _asked(world, client, operation, place, name, frames=True)
            if own == missing or own.status == 400:
                alike.append(f"{operation.verb} {operation.path} {place} as {asker}: {own}")
        if not let_in:
            never_let_in.append(f"{operation.verb} {operation.path}")
    assert "\n".join(alike) == ""
    assert never_let_in == []


async def test_another_tenants_workspace_answers_like_one_that_nobody_has(world: World) -> None:
    theirs, unknown = world.other.workspace_id, new_uuid()
    for operation in world.document.operations():
        path = re.sub(r"{\w+}", "1", operation.path)
        for asker in OF_EACH_KIND:
            client = world.askers[asker]
            by_header = [
                await client.request(operation.verb, path, headers={"X-Workspace-ID": name})
                for name in (theirs, unknown)
            ]
            by_query = [
                await client.request(operation.verb, path, params={"workspace_id": name})
                for name in (theirs, unknown)
            ]
            for answers in (by_header, by_query):
                assert_problem(answers[0], 403, "foreign_workspace")
                told = [Told.of(*each) for each in zip(answers, (theirs, unknown), strict=True)]
                assert told[0] == told[1], (operation.verb, operation.path, asker)


class Told(NamedTuple):
    """An answer without what two answers to the same request differ in."""

    status: int
    headers: list[tuple[str, str]]
    text: str

    @classmethod
    def of(cls, answer: httpx.Response, name: Name) -> "Told":
        headers = [
            (header, _without(value, name))
            for header, value in answer.headers.items()
            if header not in VARYING
        ]
        text = _without(answer.text, name, answer.headers["x-request-id"])
        return cls(answer.status_code, headers, POSITION.sub('"as_of_position":0', text))


def _without(text: str, *told: Name) -> str:
    for each in told:
        text = text.replace(str(each), "…").replace(quote(str(each), safe=""), "…")
    return text


def _questions(world: World) -> list[tuple[Operation, Place]]:
    return [
        (operation, place)
        for operation in world.document.operations()
        for place in world.document.places(operation)
    ]


async def _asked(
    world: World,
    client: httpx.AsyncClient,
    operation: Operation,
    place: Place,
    name: Name,
    condition: Mapping[str, str] | None = None,
    *,
    frames: bool = False,
) -> Told:
    """Ask an operation for a thing by its name.

    Args:
        frames: Of a live stream read what is sent until an event comes, and not only what begins
            every stream.
    """
    named = {**PLAIN_PATHS, **world.mine, place.kind: name}
    path = re.sub(
        r"{(\w+)}", lambda hole: quote(str(named[f"path:{hole[1]}"]), safe=""), operation.path
    )
    where, _, parameter = place.kind.partition(":")
    request = client.build_request(
        operation.verb,
        path,
        params={parameter: name} if where == "query" else None,
        json=world.document.body(operation, place.path, name),
        headers=dict(condition or {}),
    )
    answer = await client.send(request, stream=True)
    if answer.headers["content-type"].startswith("text/event-stream"):
        return await _begun(answer, name, frames=frames)
    await answer.aread()
    return Told.of(answer, name)


async def _begun(answer: httpx.Response, name: Name, *, frames: bool) -> Told:
    begin = ""
    async with asyncio.timeout(WAIT_MAX_S):
        async for piece in answer.aiter_text():
            begin += piece
            if not frames or "data:" in begin:
                break
    await answer.aclose()
    headers = [(n, _without(v, name)) for n, v in answer.headers.items() if n not in VARYING]
    return Told(answer.status_code, headers, _without(begin, name))


async def _shown(served: Served) -> None:
    """Wait until every read model has come as far as the log is now."""
    head = await served.installation.writing.store.head()
    for projector in PROJECTORS:
        follower = served.installation.follower
        assert await follower.wait(projector.name, head, timeout_s=WAIT_MAX_S)


async def _log_of(world: World) -> list[int]:
    store = world.served.installation.writing.store
    found = list[int]()
    workspace_id = WorkspaceId(world.other.workspace_id)
    while page := await store.read_workspace(workspace_id, after=found[-1] if found else 0):
        found += [recorded.global_position for recorded in page]
    return found
