"""Bad input on every route that takes a command: refused with its place, and nothing recorded."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from tests.read_api.conftest import Served, Tenant, assert_problem
from tests.read_api.faults import AGENT_FAULTS, HUGE_ID, WORKFLOW_FAULTS, Bad, encoded

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
DEEP = b"[" * 100_000


class Target(NamedTuple):
    """A tenant with one of everything; `ids` fills the holes in the paths and bodies below."""

    served: Served
    tenant: Tenant
    ids: dict[str, int]


class Route(NamedTuple):
    """Attributes:
    good: A body the route takes; None where it takes none.
    field: One of the body's fields that is a text or a list, and so no number.
    """

    method: str
    path: str
    good: dict[str, Any] | None
    field: str = ""
    body_max: int = MIB


STEPS = [{"agent_id": "{agent}", "prompt_template": "Say it."}]
WITH_BODY = (
    Route("POST", "/api/agents", {"name": "Grace"}, "name"),
    Route("PUT", "/api/agents/{agent}", {"description": "new"}, "tags"),
    Route(
        "PUT",
        "/api/agents/{agent}/model-config",
        {"provider": "offline", "model_id": "m"},
        "model_id",
    ),
    Route("POST", "/api/agents/{agent}/switch-model", {"model_id": "n"}, "model_id"),
    Route("POST", "/api/workflows", {"name": "Second", "steps": STEPS}, "steps", 10 * MIB),
    Route("PUT", "/api/workflows/{workflow}", {"goal": "new"}, "goal", 10 * MIB),
    Route("POST", "/api/workflows/{workflow}/execute", {"input_data": {}}, "input_data", 10 * MIB),
    Route(
        "POST",
        "/api/workflows/{workflow}/execute-advanced",
        {"input_data": {}},
        "input_data",
        10 * MIB,
    ),
)
WITHOUT_BODY = (
    Route("DELETE", "/api/agents/{agent}", None),
    Route("DELETE", "/api/workflows/{workflow}", None),
    Route("POST", "/api/workflows/{workflow}/duplicate", None),
    Route("POST", "/api/workflows/executions/{run}/cancel", None),
)
COMMANDS = (*WITH_BODY, *WITHOUT_BODY)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(served: Served) -> Target:
    tenant = served.tenants.pop()
    agent = await tenant.agent("Ada")
    archived = await tenant.agent("Archived")
    await tenant.http.delete(f"/api/agents/{archived['id']}")
    steps = [{"agent_id": agent["id"], "prompt_template": "Say it."}]
    workflow = await tenant.workflow(steps=steps, is_active=True)
    run = await tenant.ended_run(workflow["id"])
    ids = {
        "agent": agent["id"],
        "archived": archived["id"],
        "workflow": workflow["id"],
        "run": run["id"],
    }
    return Target(served, tenant, ids)


def filled(ids: dict[str, int], text: str) -> str:
    """Fill the holes of a path or of a body: `"{agent}"` is a number there."""
    for name, value in ids.items():
        text = text.replace(f'"{{{name}}}"', str(value)).replace(f"{{{name}}}", str(value))
    return text


async def sent(target: Target, bad: Bad) -> httpx.Response:
    content: Any = bad.content
    if isinstance(content, tuple):
        pieces = content

        async def one_by_one() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        content = one_by_one()
    else:
        content = filled(target.ids, content.decode("latin-1")).encode("latin-1")
    path = filled(target.ids, bad.path)
    return await target.tenant.http.request(bad.method, path, content=content, headers=bad.headers)


async def assert_refused(target: Target, bad: Bad) -> None:
    before = await target.served.log(target.tenant)
    answer = await sent(target, bad)
    body = assert_problem(answer, bad.status, bad.code)
    pointers = [error["pointer"] for error in body["errors"]]
    assert pointers[:1] == ([] if bad.pointer is None else [bad.pointer])
    assert await target.served.log(target.tenant) == before


def unreadable(route: Route) -> Iterator[Bad]:
    """Give what every route with a body refuses."""

    def bad(name: str, content: bytes, pointer: str = "") -> Bad:
        return Bad(name, route.method, route.path, content, 400, "bad_body", pointer)

    good = encoded(route.good)
    yield bad("malformed", b"{nope}")
    yield bad("cut off", good[:-1])
    yield bad("two documents", good + good)
    yield bad("no UTF-8", b'{"\xff\xfe": 1}')
    yield bad("half a surrogate pair", b'{"\\ud800": 1}')
    yield bad(
        "U+0000", encoded({**(route.good or {}), route.field: ["a", "\0"]}), f"/{route.field}/1"
    )
    yield bad("NaN", b'{"%b": NaN}' % route.field.encode())
    yield bad("a list", b"[]")
    yield bad("a text", b'"name"')
    yield bad("nested without end", DEEP)
    yield bad("nested too deep", b'{"configuration":' + b"[" * 64 + b"]" * 64 + b"}")
    yield bad("an unknown field", encoded({**(route.good or {}), "no/~field": 1}), "/no~1~0field")
    wrong = {**(route.good or {}), route.field: 7}
    yield bad("a wrong type", encoded(wrong), f"/{route.field}")


def too_large(route: Route) -> Iterator[Bad]:
    chunks = route.body_max // 65_536 + 1
    piece = b" " * 65_536
    for name, content in (
        ("too large", piece * chunks),
        ("too large, in chunks", (piece,) * chunks),
    ):
        yield Bad(name, route.method, route.path, content, 413, "body_too_large", None)


def bad_headers(route: Route) -> Iterator[Bad]:
    content = b"" if route.good is None else encoded(route.good)
    for header, value in (
        ("Idempotency-Key", "short"),
        ("Idempotency-Key", "x" * 129),
        ("Idempotency-Key", "a key with blanks"),
        ("If-Match", "1"),
        ("If-Match", 'W/"1"'),
        ("If-Match", f'"{10**18}"'),
    ):
        yield Bad(
            f"{header}: {value[:10]}",
            route.method,
            route.path,
            content,
            400,
            "bad_header",
            f"/header/{header}",
            {header: value},
        )


def bad_ids(route: Route) -> Iterator[Bad]:
    hole = route.path.partition("{")[2].partition("}")[0]
    if hole in {"agent", "workflow"}:
        for value in (HUGE_ID, 10**40, 0, -1, -HUGE_ID - 1):
            path = route.path.replace(f"{{{hole}}}", str(value))
            content = b"" if route.good is None else encoded(route.good)
            pointer = f"/path/{hole}_id"
            yield Bad(f"id {value}", route.method, path, content, 400, "bad_parameter", pointer)


def shown(case: Bad) -> str:
    return f"{case.method} {case.path}: {case.name}"


GENERAL = [
    *(bad for route in WITH_BODY for bad in (*unreadable(route), *too_large(route))),
    *(bad for route in COMMANDS for bad in (*bad_headers(route), *bad_ids(route))),
]


@pytest.mark.parametrize("bad", GENERAL, ids=shown)
async def test_a_command_that_cannot_be_read_is_refused(target: Target, bad: Bad) -> None:
    await assert_refused(target, bad)


@pytest.mark.parametrize("bad", [*AGENT_FAULTS, *WORKFLOW_FAULTS], ids=shown)
async def test_a_command_that_breaks_a_rule_is_refused_at_its_place(
    target: Target, bad: Bad
) -> None:
    await assert_refused(target, bad)


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/api/agents?limit=0", "/query/limit"),
        ("/api/agents?limit=1001", "/query/limit"),
        ("/api/agents?limit=ten", "/query/limit"),
        ("/api/agents?skip=-1", "/query/skip"),
        (f"/api/agents?skip={2**63}", "/query/skip"),
        ("/api/agents?status=asleep", "/query/status"),
        ("/api/agents?search=" + "x" * 256, "/query/search"),
        ("/api/agents?search=a%00", "/query/search"),
        ("/api/workflows/executions/exec%00", "/path"),
        (f"/api/agents/{HUGE_ID}", "/path/agent_id"),
        (f"/api/agents/{HUGE_ID}/model-usage", "/path/agent_id"),
        ("/api/workflows?limit=201", "/query/limit"),
        ("/api/workflows?skip=-1", "/query/skip"),
        ("/api/workflows?status=on", "/query/status"),
        (f"/api/workflows/{HUGE_ID}", "/path/workflow_id"),
        ("/api/workflows/executions?limit=101", "/query/limit"),
        ("/api/workflows/executions?status=on", "/query/status"),
        (f"/api/workflows/executions?workflow_id={HUGE_ID}", "/query/workflow_id"),
        ("/api/usage?since=yesterday", "/query/since"),
        ("/api/events?limit=0", "/query/limit"),
        ("/api/events?limit=1001", "/query/limit"),
        ("/api/events?since=yesterday", "/query/since"),
        ("/api/events?since=2026-01-01T00:00:00", "/query/since"),
        ("/api/events?until=0.5", "/query/until"),
        ("/api/events?until=2026-01-01T00:00:00", "/query/until"),
        ("/api/events?type=no_such_event", "/query/type"),
    ],
)
async def test_a_query_out_of_its_bounds_is_refused(
    target: Target, path: str, pointer: str
) -> None:
    body = assert_problem(await target.tenant.http.get(path), 400, "bad_parameter")
    assert body["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "", "9" * 19, "%C2%B2", "1%0A"])
async def test_a_cursor_that_is_no_position_is_refused(target: Target, cursor: str) -> None:
    answer = await target.tenant.http.get(f"/api/events?cursor={cursor}")
    body = assert_problem(answer, 400, "bad_cursor")
    assert body["errors"][0]["pointer"] == "/query/cursor"


@pytest.mark.parametrize("position", ["x", "-1", "9" * 19, "1.0"])
@pytest.mark.parametrize(
    "path", ["/api/agents", "/api/workflows", "/api/workflows/executions", "/api/usage"]
)
async def test_a_minimum_that_is_no_position_is_refused(
    target: Target, path: str, position: str
) -> None:
    answer = await target.tenant.http.get(path, headers={"Min-Position": position})
    body = assert_problem(answer, 400, "bad_header")
    assert body["errors"][0]["pointer"] == "/header/Min-Position"


RETRIED = (*(route for route in WITH_BODY), WITHOUT_BODY[2])


@pytest.mark.parametrize("route", RETRIED, ids=lambda route: f"{route.method} {route.path}")
async def test_a_refused_request_can_be_repeated_mended_under_its_key(
    target: Target, route: Route
) -> None:
    path = filled(target.ids, route.path)
    key = {"Idempotency-Key": f"key-{RETRIED.index(route)}-of-a-retry"}
    if route.good is not None:
        refused = await target.tenant.http.request(
            route.method, path, content=b'{"x": ', headers=key
        )
        assert_problem(refused, 400, "bad_body")
    content = filled(target.ids, json.dumps(route.good)) if route.good is not None else ""
    refused = await target.tenant.http.request(
        route.method, path, content=content, headers={**key, "If-Match": "no"}
    )
    assert_problem(refused, 400, "bad_header")
    mended = await target.tenant.http.request(route.method, path, content=content, headers=key)
    assert mended.status_code in {200, 201, 202}, mended.text
    assert "Idempotent-Replayed" not in mended.headers
