"""The document tells the truth about the routes, and its page needs nobody else's server."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio
from litestar.routes import HTTPRoute

from read_api.auth import PUBLIC, RECORDS_NOTHING
from read_api.problems import MEDIA_TYPE, ON_COMMAND, ON_READING
from tests.read_api.conftest import Served, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERBS = {"get", "post", "put", "delete"}
HEALTH = ("/health", "/health/live", "/health/ready")
PAGES = ("/docs", "/docs/openapi.json", "/docs/problems")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(served: Served) -> Any:
    return (await served.client().get("/docs/openapi.json")).json()


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in document["paths"].items():
        for verb in VERBS & set(item):
            yield verb, path, item[verb]


def routes(served: Served) -> Iterator[tuple[str, str, bool]]:
    """Give each route's verb and path, and whether it is answered without a key."""
    for route in served.app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for verb in handler.http_methods & {verb.upper() for verb in VERBS}:
                    path = re.sub(r":\w+}", "}", route.path_format)
                    yield verb.lower(), path, bool(handler.opt.get(PUBLIC))


async def test_every_route_but_the_docs_is_in_the_document(served: Served, document: Any) -> None:
    served_routes = {(v, path) for v, path, _ in routes(served) if not path.startswith("/docs")}
    assert served_routes == {(verb, path) for verb, path, _ in operations(document)}


async def test_every_operation_has_a_summary_a_tag_and_an_id_of_its_own(document: Any) -> None:
    ids: Counter[str] = Counter()
    for verb, path, operation in operations(document):
        assert operation["summary"], (verb, path)
        assert operation["tags"], (verb, path)
        ids[operation["operationId"]] += 1
    assert [name for name, count in ids.items() if count > 1] == []


async def test_the_document_is_openapi_3_1_with_no_reference_into_nothing(document: Any) -> None:
    assert re.fullmatch(r"3\.1\.\d", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"]
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for verb, path, operation in operations(document):
        holes = set(re.findall(r"{(\w+)}", path))
        parameters = [(p["in"], p["name"]) for p in operation.get("parameters", [])]
        assert {name for place, name in parameters if place == "path"} == holes, (verb, path)
        assert len(set(parameters)) == len(parameters), (verb, path)
        assert set(operation["responses"]) & {"200", "201", "202"}, (verb, path)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)


async def test_every_guarded_operation_documents_how_it_refuses(
    served: Served, document: Any
) -> None:
    for verb, path, public in routes(served):
        if public:
            continue
        responses = document["paths"][path][verb]["responses"]
        for status in ON_READING if verb == "get" else ON_COMMAND:
            content = responses[str(status)]["content"]
            assert content == {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}


async def test_commands_document_their_keys_and_conditions(served: Served, document: Any) -> None:
    plain = set(recording_nothing(served))
    assert plain
    for verb, path, operation in operations(document):
        named = {parameter["name"] for parameter in operation.get("parameters", [])}
        commands = verb != "get" and path not in plain
        assert ({"Idempotency-Key", "If-Match"} <= named) == commands, (verb, path)


def recording_nothing(served: Served) -> Iterator[str]:
    for route in served.app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                if RECORDS_NOTHING.items() <= handler.opt.items():
                    yield route.path_format


async def test_only_public_operations_are_documented_without_credentials(
    served: Served, document: Any
) -> None:
    for verb, path, public in routes(served):
        if not path.startswith("/docs"):
            operation = document["paths"][path][verb]
            assert (operation.get("security") == []) == public, (verb, path)


async def test_what_bodies_refuse_is_documented(document: Any) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["NewAgent"]["additionalProperties"] is False
    assert schemas["NewAgent"]["properties"]["plugin_ids"]["items"]["maxLength"] == 255
    path = schemas["TicketWanted"]["properties"]["path"]
    assert r"\Z" not in path["pattern"], "ECMA-262 knows none"
    assert schemas["AgentBody"]["properties"]["created_at"]["format"] == "date-time"


async def test_whole_numbers_in_urls_have_their_bounds_in_the_document(document: Any) -> None:
    schemas = [
        (path, parameter["name"], parameter["schema"])
        for path, item in document["paths"].items()
        for operation in item.values()
        for parameter in operation.get("parameters", ())
    ]
    numbers = [each for each in schemas if '"integer"' in json.dumps(each[2])]
    assert len(numbers) > 20
    for path, name, schema in numbers:
        assert {"minimum", "exclusiveMinimum"} & set(schema), (path, name)
        assert "maximum" in schema, (path, name)


async def test_no_two_bodies_share_a_name(document: Any) -> None:
    """Litestar puts modules before names that are not unique, and references miss them."""
    for name in document["components"]["schemas"]:
        assert re.fullmatch(r"[A-Z][A-Za-z]*", name)


async def test_a_real_problem_has_the_documented_shape(served: Served, document: Any) -> None:
    schema = document["components"]["schemas"]["ProblemBody"]
    answer = await served.tenants[0].http.get("/api/agents?limit=0")
    assert set(answer.json()) == set(schema["properties"]) == set(schema["required"])


async def test_no_route_but_the_public_ones_is_answered_without_a_key(served: Served) -> None:
    client = served.client()
    guarded = 0
    for verb, path, public in routes(served):
        if public or path.startswith("/docs"):
            continue
        guarded += 1
        answer = await client.request(verb, re.sub(r"{\w+}", "1", path))
        assert_problem(answer, 401, "not_authenticated")
    assert guarded > 20


async def test_these_routes_are_public_and_no_others(served: Served) -> None:
    client = served.client()
    for path in ("/", *HEALTH, *PAGES):
        assert (await client.get(path)).status_code == 200, path
    public = {path for _, path, public in routes(served) if public}
    assert {path for path in public if not path.startswith("/docs")} == {"/", *HEALTH}


async def test_the_docs_page_loads_from_here_only(served: Served) -> None:
    client = served.client()
    page = await client.get("/docs")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assets = re.findall(r'(?:src|href)=["\']([^"\']+)', page.text)
    local = [asset for asset in assets if not asset.startswith("data:")]
    assert len(local) == 3
    for asset in local:
        assert asset.startswith("/docs/assets/")
        answer = await client.get(asset)
        assert answer.status_code == 200, asset
        assert answer.headers["content-type"].partition(";")[0] in {
            "text/css",
            "text/javascript",
            "application/javascript",
        }
    assert re.findall(r"https?://[\w.]+", page.text) == []


async def test_the_docs_assets_give_nothing_from_outside_their_folder(served: Served) -> None:
    client = served.client()
    for path in ("../__init__.py", "..%2f__init__.py", "%2e%2e/__init__.py", "/etc/passwd"):
        answer = await client.get(f"/docs/assets/{path}")
        assert answer.status_code == 404, path
