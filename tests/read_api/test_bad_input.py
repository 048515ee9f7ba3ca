"""Bad input on every route that takes a command: refused with its place, and nothing recorded."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from tests.read_api.conftest import Served, Tenant, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
DEEP = b"[" * 100_000
HUGE_ID = 2**63


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


class Bad(NamedTuple):
    """A request and how it is refused.

    Attributes:
        content: The body, or its pieces: then it is sent without a Content-Length.
    """

    name: str
    method: str
    path: str
    content: bytes | tuple[bytes, ...]
    status: int
    code: str
    pointer: str | None
    headers: Mapping[str, str] = MappingProxyType({})


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


def encoded(body: object) -> bytes:
    return json.dumps(body).encode()


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


def agent_fault(name: str, pointer: str, body: dict[str, Any], method: str = "") -> Bad:
    method = method or "POST"
    path = "/api/agents" if method == "POST" else "/api/agents/{agent}"
    return Bad(name, method, path, encoded(body), 400, "bad_body", pointer)


def model_fault(name: str, field: str, value: object) -> Bad:
    body = {"provider": "p", "model_id": "m", field: value}
    path = "/api/agents/{agent}/model-config"
    return Bad(name, "PUT", path, encoded(body), 400, "bad_body", f"/{field}")


def workflow_fault(
    name: str, pointer: str, body: dict[str, Any], status: int = 400, code: str = "bad_body"
) -> Bad:
    whole = {"name": "Faulty", **body}
    return Bad(name, "POST", "/api/workflows", encoded(whole), status, code, pointer)


def step_fault(
    name: str, pointer: str, *steps: dict[str, Any], status: int = 400, code: str = "bad_body"
) -> Bad:
    good = {"agent_id": "{agent}", "prompt_template": "Say it."}
    whole = [{**good, **step} for step in steps]
    return workflow_fault(name, f"/steps/{pointer}", {"steps": whole}, status, code)


AGENT_FAULTS = [
    Bad("no name", "POST", "/api/agents", b"{}", 400, "bad_body", "/name"),
    Bad("no body", "POST", "/api/agents", b"", 400, "bad_body", ""),
    Bad("null", "POST", "/api/agents", b"null", 400, "bad_body", ""),
    agent_fault("an empty name", "/name", {"name": ""}),
    agent_fault("a blank name", "/name", {"name": " \t\n"}),
    agent_fault("a name that is null", "/name", {"name": None}),
    agent_fault("a name over 255", "/name", {"name": "x" * 256}),
    agent_fault("an unknown status", "/status", {"name": "G", "status": "asleep"}),
    agent_fault("a type over 255", "/agent_type", {"name": "G", "agent_type": "x" * 256}),
    agent_fault(
        "a configuration that is a list", "/configuration", {"name": "G", "configuration": []}
    ),
    agent_fault("tags that are numbers", "/tags/1", {"name": "G", "tags": ["a", 1]}),
    agent_fault("too many tags", "/tags", {"name": "G", "tags": ["a"] * 101}),
    agent_fault(
        "a description over 16 384", "/description", {"name": "G", "description": "x" * 16_385}
    ),
    agent_fault(
        "a model without an id",
        "/model_config/model_id",
        {"name": "G", "model_config": {"provider": "p"}},
    ),
    agent_fault("a changed name that is blank", "/name", {"name": "  "}, "PUT"),
    agent_fault("a changed name over 255", "/name", {"name": "x" * 256}, "PUT"),
    agent_fault("a changed status that is unknown", "/status", {"status": "asleep"}, "PUT"),
    model_fault("a temperature over 2", "temperature", 2.01),
    model_fault("a temperature of text", "temperature", "hot"),
    model_fault("no tokens", "max_tokens", 0),
    model_fault("more tokens than any model gives", "max_tokens", 2**70),
    model_fault("an empty model id", "model_id", ""),
    model_fault("an empty provider", "provider", ""),
    Bad(
        "switching to no model",
        "POST",
        "/api/agents/{agent}/switch-model",
        b"{}",
        400,
        "bad_body",
        "/model_id",
    ),
    Bad(
        "a prompt over 256 KiB",
        "POST",
        "/api/agents",
        encoded({"name": "G", "system_prompt": "x" * (256 * 1024 + 1)}),
        413,
        "too_long",
        "/system_prompt",
    ),
    Bad(
        "a changed prompt over 256 KiB, of few letters",
        "PUT",
        "/api/agents/{agent}",
        encoded({"system_prompt": "\N{GRINNING FACE}" * (64 * 1024 + 1)}),
        413,
        "too_long",
        "/system_prompt",
    ),
    Bad("a taken name", "POST", "/api/agents", b'{"name": "ada"}', 409, "name_is_taken", "/name"),
    Bad(
        "a skill",
        "POST",
        "/api/agents",
        b'{"name": "G", "skill_ids": [1]}',
        422,
        "invalid",
        "/skill_ids",
    ),
    Bad("a tool", "PUT", "/api/agents/{agent}", b'{"tool_ids": [1]}', 422, "invalid", "/tool_ids"),
    Bad(
        "an archived agent", "PUT", "/api/agents/{archived}", b"{}", 409, "agent_is_archived", None
    ),
]

WORKFLOW_FAULTS = [
    Bad("no name", "POST", "/api/workflows", b"{}", 400, "bad_body", "/name"),
    workflow_fault("a blank name", "/name", {"name": " "}),
    workflow_fault("a name over 255", "/name", {"name": "x" * 256}),
    workflow_fault(
        "more than 100 steps", "/steps", {"steps": [{"agent_id": 1, "prompt_template": "x"}] * 101}
    ),
    workflow_fault("an input with a blank", "/inputs/0", {"inputs": ["a b"]}),
    workflow_fault("published without a step", "/steps", {"is_active": True}, 422, "invalid"),
    step_fault("no template", "0/prompt_template", {"prompt_template": ""}),
    step_fault("no agent", "0/agent_id", {"agent_id": None}),
    step_fault("an agent's name for its id", "1/agent_id", {}, {"agent_id": "Ada"}),
    step_fault("a step id with a blank", "0/step_id", {"step_id": "a b"}),
    step_fault("an unknown error handling", "0/error_handling", {"error_handling": "pray"}),
    step_fault("too many retries", "0/max_retries", {"max_retries": 11}),
    step_fault("fewer than no retries", "0/max_retries", {"max_retries": -1}),
    step_fault("an unknown field", "0/prompt", {"prompt": "x"}),
    step_fault(
        "two steps of one id",
        "1/step_id",
        {"step_id": "a"},
        {"step_id": "a"},
        status=422,
        code="invalid",
    ),
    step_fault(
        "a given id that is another's default",
        "1/step_id",
        {"step_id": "step-2"},
        {},
        status=422,
        code="invalid",
    ),
    step_fault("an unknown agent", "0/agent_id", {"agent_id": 17}, status=422, code="invalid"),
    step_fault(
        "an agent id over 2^63", "0/agent_id", {"agent_id": 2**64}, status=422, code="invalid"
    ),
    step_fault(
        "an archived agent",
        "0/agent_id",
        {"agent_id": "{archived}"},
        status=409,
        code="agent_is_archived",
    ),
    step_fault(
        "a template of an unknown step",
        "0/prompt_template",
        {"prompt_template": "{steps.nope.output}"},
        status=422,
        code="invalid",
    ),
    step_fault(
        "a template of a later step",
        "0/prompt_template",
        {"prompt_template": "{steps.b.output}"},
        {"step_id": "b"},
        status=422,
        code="invalid",
    ),
    step_fault(
        "a first step with a previous one",
        "0/prompt_template",
        {"prompt_template": "{previous.output}"},
        status=422,
        code="invalid",
    ),
    step_fault(
        "a template over 256 KiB",
        "0/prompt_template",
        {"prompt_template": "x" * (256 * 1024 + 1)},
        status=413,
        code="too_long",
    ),
    workflow_fault(
        "a template of an undeclared input",
        "/steps/0/prompt_template",
        {
            "inputs": ["topic"],
            "steps": [{"agent_id": "{agent}", "prompt_template": "{input.other}"}],
        },
        422,
        "invalid",
    ),
    Bad(
        "a taken name",
        "POST",
        "/api/workflows",
        b'{"name": "RESEARCH"}',
        409,
        "name_is_taken",
        "/name",
    ),
    Bad(
        "a published one without steps",
        "PUT",
        "/api/workflows/{workflow}",
        b'{"steps": []}',
        422,
        "invalid",
        "/steps",
    ),
    Bad(
        "an unknown status",
        "PUT",
        "/api/workflows/{workflow}",
        b'{"status": "on"}',
        400,
        "bad_body",
        "/status",
    ),
    Bad(
        "an input that is a list",
        "POST",
        "/api/workflows/{workflow}/execute",
        b'{"input_data": []}',
        400,
        "bad_body",
        "/input_data",
    ),
    Bad(
        "an input over 256 KiB",
        "POST",
        "/api/workflows/{workflow}/execute",
        encoded({"input_data": {"x": "x" * 256 * 1024}}),
        413,
        "too_long",
        "/input_data",
    ),
    Bad(
        "a run that has ended",
        "POST",
        "/api/workflows/executions/{run}/cancel",
        b"",
        409,
        "run_is_finished",
        None,
    ),
    Bad(
        "a run that is none",
        "POST",
        "/api/workflows/executions/nope/cancel",
        b"",
        404,
        "not_found",
        None,
    ),
    Bad(
        "a run's id over 2^63",
        "POST",
        f"/api/workflows/executions/{HUGE_ID}/cancel",
        b"",
        404,
        "not_found",
        None,
    ),
]


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
