"""One thing of each kind that a request can name, and names of the same form that are nobody's.

A parameter or a field of a body that may name a tenant's thing is in `MAKERS`; one that names none
is in `PLAIN` or `NAMES_NOTHING`. A test fails for a new one that is in neither.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import httpx

from infra.ids import new_uuid
from tests.read_api.conftest import Served
from tests.read_api.test_identity import body, joined, logged_in

Name: TypeAlias = int | str

AGO = 2**40
"""Subtracted from an integer id: it is then one of three days earlier, when nobody made any."""

_numbers = count(1)


class Office:
    """A workspace whose owner makes things at will.

    Attributes:
        owner: His client.
        user_id, workspace_id: His, and of the workspace that is his own.
    """

    def __init__(self, served: Served, owner: httpx.AsyncClient, me: Any) -> None:
        self.served = served
        self.owner = owner
        self.user_id: str = me["id"]
        self.workspace_id: str = me["workspace_id"]

    @classmethod
    async def opened(cls, served: Served) -> "Office":
        owner = logged_in(served, f"user_office_{next(_numbers)}")
        return cls(served, owner, await body(await owner.get("/api/users/me")))

    async def made(self, path: str, wanted: object, status: int = 201) -> Any:
        return await body(await self.owner.post(path, json=wanted), status)

    async def member(self, role: str) -> httpx.AsyncClient:
        return await joined(self.served, self.owner, f"user_member_{next(_numbers)}", role)


Maker: TypeAlias = Callable[[Office], Awaitable[Name]]


def word() -> str:
    """Give a word that nobody has used; it may name a setting, too."""
    return f"word{secrets.token_hex(8)}"


async def agent(office: Office) -> Name:
    model = {"provider": "offline", "model_id": "extractive-bm25"}
    made = await office.made("/api/agents", {"name": word(), "model_config": model})
    return int(made["id"])


async def started(office: Office) -> tuple[int, str]:
    """Publish a workflow and run it; name both."""
    steps = [{"agent_id": await agent(office), "prompt_template": "Say it."}]
    made = await office.made("/api/workflows", {"name": word(), "steps": steps, "is_active": True})
    run = await office.made(f"/api/workflows/{made['id']}/execute", {}, 202)
    return int(made["id"]), str(run["execution_id"])


async def workflow(office: Office) -> Name:
    return (await started(office))[0]


async def execution(office: Office) -> Name:
    return (await started(office))[1]


async def member(office: Office) -> Name:
    guest = logged_in(office.served, f"user_member_{next(_numbers)}")
    accepted = await guest.post("/api/invitations/accept", json={"token": await token(office)})
    return str((await body(accepted))["user_id"])


async def invited(office: Office) -> Any:
    wanted = {"email": "new@x.org", "role": "viewer"}
    return await office.made("/api/workspaces/current/invitations", wanted)


async def invitation(office: Office) -> Name:
    return str((await invited(office))["id"])


async def token(office: Office) -> Name:
    return str((await invited(office))["token"])


async def key(office: Office) -> Name:
    return str((await office.made("/api/api-keys", {"name": word()}))["id"])


async def a_setting(office: Office) -> Any:
    wanted = {"category": "brand", "key": word(), "value": "blue", "default_value": "red"}
    return await office.made("/api/system-settings", wanted)


async def setting(office: Office) -> Name:
    return int((await a_setting(office))["id"])


async def config(office: Office) -> Name:
    made = await a_setting(office)
    return f"{made['category']}.{made['key']}"


async def actor(office: Office) -> Name:
    await agent(office)
    return f"user:{office.user_id}"


async def stream(office: Office) -> Name:
    await agent(office)
    asked = await office.owner.get("/api/events", params={"type": "agent_registered"})
    return str((await body(asked))["items"][-1]["stream_id"])


async def marked(office: Office) -> Name:
    """Make things that hold a word wherever a list can be searched for one."""
    mark = word()
    told = {"name": mark, "tags": [mark]}
    await office.made("/api/agents", {**told, "agent_type": mark})
    await office.made("/api/workflows", {**told, "owner": mark})
    wanted = {"category": mark, "key": mark, "value": "blue", "default_value": "red"}
    await office.made("/api/system-settings", wanted)
    return mark


MAKERS: Mapping[str, Maker] = MappingProxyType(
    {
        "path:agent_id": agent,
        "path:workflow_id": workflow,
        "path:execution_id": execution,
        "path:user_id": member,
        "path:invitation_id": invitation,
        "path:key_id": key,
        "path:setting_id": setting,
        "path:config_key": config,
        "query:workflow_id": workflow,
        "query:stream": stream,
        "query:actor": actor,
        "query:agent_type": marked,
        "query:category": marked,
        "query:owner": marked,
        "query:q": marked,
        "query:search": marked,
        "query:tag": marked,
        "body:agent_id": agent,
        "body:id": setting,
        "body:token": token,
    }
)

PLAIN = frozenset({"after", "cursor", "limit", "since", "skip", "status", "type", "until"})
"""Parameters of queries that name no thing of anybody's. Positions have tests of their own."""

PLAIN_PATHS: Mapping[str, Name] = MappingProxyType({"path:version": 1})
"""Parameters of paths that name nothing but within what the path has named before, with a value
that is there."""

NAMES_NOTHING = frozenset(
    {"fallback_model_id", "model_id", "plugin_ids", "skill_ids", "step_id", "tool_ids"}
)
"""Fields of bodies that look like ids and name no thing of a tenant's: models, labels, and what the
marketplace of the original has, which is kept as it is told."""

HEADERS = frozenset({"Idempotency-Key", "If-Match", "Last-Event-ID", "Min-Position"})
"""Headers that operations take; how each keeps tenants apart has a test of its own."""

EXAMPLES: Mapping[str, object] = MappingProxyType(
    {"provider": "offline", "model_id": "extractive-bm25", "prompt_template": "Say it."}
)
"""What a rule, and no schema, asks of a field."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INTEGER = re.compile(r"(?<![0-9a-f-])[0-9]{12,16}(?![0-9a-f-])")


def nobodys(name: Name) -> Name:
    """Give a name of the same form and length that nobody's thing has."""
    if isinstance(name, int):
        return name - AGO
    other = _UUID.sub(lambda _: new_uuid(), name)
    other = _INTEGER.sub(lambda found: str(int(found[0]) - AGO), other)
    if other == name:
        other = name[:-8] + secrets.token_hex(4)
    return other


# What the document tells.


class Place(NamedTuple):
    """Where a request names something.

    Attributes:
        kind: A key of `MAKERS`.
        path: Into the body, if it is there.
    """

    kind: str
    path: tuple[str | int, ...] = ()


class Operation(NamedTuple):
    verb: str
    path: str
    told: Any


class Document:
    """Our OpenAPI document, as far as it tells how to make requests."""

    def __init__(self, document: Any) -> None:
        self._document = document

    def operations(self) -> Iterator[Operation]:
        """Give those that ask for credentials."""
        for path, item in self._document["paths"].items():
            for verb in ("get", "post", "put", "delete", "patch"):
                if verb in item and item[verb].get("security") != []:
                    yield Operation(verb, path, item[verb])

    def parameters(self, operation: Operation) -> set[str]:
        told = operation.told.get("parameters", [])
        return {f"{each['in']}:{each['name']}" for each in told}

    def places(self, operation: Operation) -> Iterator[Place]:
        """Give the places where an operation may name a tenant's thing."""
        for name in sorted(self.parameters(operation)):
            where, _, plain = name.partition(":")
            if (where == "path" and name not in PLAIN_PATHS) or (
                where == "query" and plain not in PLAIN
            ):
                yield Place(name)
        schema = self._body(operation)
        for path in self._ids(schema) if schema else ():
            yield Place(f"body:{path[-1]}", path)

    def body(self, operation: Operation, path: tuple[str | int, ...], name: Name) -> Any:
        """Make a body of what it must have, and what is to stand at a place in it."""
        told = operation.told.get("requestBody", {})
        if not (path or told.get("required")):
            return None
        return self._sample(self._body(operation), path, name)

    def _body(self, operation: Operation) -> Any:
        content = operation.told.get("requestBody", {}).get("content", {})
        return content["application/json"]["schema"] if content else None

    def _resolved(self, schema: Any) -> Any:
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches:
            schema = next(each for each in branches if each.get("type") != "null")
        reference = schema.get("$ref")
        if reference is None:
            return schema
        name = reference.removeprefix("#/components/schemas/")
        return self._resolved(self._document["components"]["schemas"][name])

    def _ids(self, schema: Any) -> Iterator[tuple[str | int, ...]]:
        schema = self._resolved(schema)
        if "items" in schema:
            for path in self._ids(schema["items"]):
                yield (0, *path)
        for name, child in schema.get("properties", {}).items():
            if re.search(r"(^|_)(ids?|token)$", name) and name not in NAMES_NOTHING:
                yield (name,)
            else:
                for path in self._ids(child):
                    yield (name, *path)

    def _sample(self, schema: Any, path: tuple[str | int, ...] = (), put: Name = "") -> Any:
        schema = self._resolved(schema)
        if "properties" in schema:
            wanted = {*schema.get("required", []), *path[:1]}
            return {
                name: self._field(name, child, path, put)
                for name, child in schema["properties"].items()
                if name in wanted
            }
        if "enum" in schema:
            return schema["enum"][0]
        if schema["type"] == "array":
            return [self._sample(schema["items"], path[1:], put)]
        return {"string": "text", "integer": 1, "number": 1, "boolean": True}[schema["type"]]

    def _field(self, name: str, schema: Any, path: tuple[str | int, ...], put: Name) -> Any:
        if path == (name,):
            return put
        if name in EXAMPLES:
            return EXAMPLES[name]
        return self._sample(schema, path[1:] if path[:1] == (name,) else (), put)
