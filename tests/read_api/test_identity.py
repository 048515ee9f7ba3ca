"""Logging in, belonging to workspaces, and what each role may do there."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from infra.clerk_tokens import LIFETIME_MAX_S
from tests.read_api.conftest import Served, Tenant, assert_problem, clerk_settings, serving, until
from tests.tokens import PARTY, claims, make_key, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIGNING = make_key()
ROLES = ["admin", "editor", "viewer", "auditor"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("clerk")
    async with serving(folder, clerk_settings(folder, SIGNING), tenants=16) as made:
        yield made


def logged_in(served: Served, subject: str, **said: object) -> httpx.AsyncClient:
    """Give the client of somebody with a session of this moment."""
    client, now = served.client(), time.time()
    # Longer than Clerk's minute: on a busy machine a module takes more.
    session = token(claims(now, **{"sub": subject, "exp": now + LIFETIME_MAX_S, **said}), SIGNING)
    client.headers["Authorization"] = f"Bearer {session}"
    return client


async def body(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def joined(
    served: Served, owner: httpx.AsyncClient, subject: str, role: str
) -> httpx.AsyncClient:
    """Have somebody invited and accept; give his client."""
    sent = await owner.post(
        "/api/workspaces/current/invitations", json={"email": "new@x.org", "role": role}
    )
    guest = logged_in(served, subject)
    accepted = await guest.post(
        "/api/invitations/accept", json={"token": (await body(sent, 201))["token"]}
    )
    assert (await body(accepted))["role"] == role
    workspace = (await body(await owner.get("/api/workspaces/current")))["id"]
    guest.headers["X-Workspace-ID"] = workspace

    async def is_let_in() -> bool:
        return (await guest.get("/api/workspaces/current")).status_code == 200

    await until(is_let_in)
    return guest


async def test_the_first_login_finds_a_workspace_of_ones_own(served: Served) -> None:
    client = logged_in(served, "user_first", email="ada@x.org", name="Ada", email_verified=True)
    me = await body(await client.get("/api/users/me"))
    assert (me["email"], me["auth_type"], me["role"]) == ("ada@x.org", "clerk", "owner")
    (own,) = await body(await client.get("/api/workspaces"))
    assert (own["id"], own["name"], own["is_personal"], own["role"]) == (
        me["workspace_id"],
        "Ada's Workspace",
        True,
        "owner",
    )
    (member,) = await body(await client.get("/api/workspaces/current/members"))
    assert (member["user_id"], member["email"], member["name"]) == (me["id"], "ada@x.org", "Ada")
    agent = await body(await client.post("/api/agents", json={"name": "Ada's agent"}), 201)
    (event,) = (await body(await client.get("/api/events", params={"type": "agent_registered"})))[
        "items"
    ]
    assert (event["data"]["agent_id"], event["actor"]) == (agent["id"], f"user:{me['id']}")


async def test_fifty_first_logins_at_once_make_one_user(served: Served) -> None:
    clients = [logged_in(served, "user_many") for _ in range(5)]
    answers = await asyncio.gather(*(clients[n % 5].get("/api/users/me") for n in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({(a.json()["id"], a.json()["workspace_id"]) for a in answers}) == 1
    log = await served.installation.writing.store.read_all()
    registered = [e for e in log if e.event.tag() == "user_registered"]
    subjects = [getattr(e.event, "subject", "") for e in registered]
    assert subjects.count("user_many") == 1


@pytest.mark.parametrize(
    "changed",
    [{"iss": "https://other.example"}, {"azp": "https://evil.example"}, {"sts": "pending"}],
    ids=str,
)
async def test_a_token_that_is_not_for_us_is_refused(
    served: Served, changed: dict[str, object]
) -> None:
    client = logged_in(served, "user_bad", **changed)
    assert_problem(await client.get("/api/users/me"), 401, "not_authenticated")


async def test_a_page_s_token_names_the_page_s_origin(served: Served) -> None:
    unnamed, named = logged_in(served, "user_page", azp=None), logged_in(served, "user_page")
    assert (await unnamed.get("/api/users/me")).status_code == 200
    for client in (unnamed, named):
        client.headers["Origin"] = PARTY
    assert_problem(await unnamed.get("/api/users/me"), 401, "not_authenticated")
    assert (await named.get("/api/users/me")).status_code == 200


async def test_a_workspace_that_is_not_ones_own_cannot_be_chosen(
    served: Served, tenant: Tenant
) -> None:
    client = logged_in(served, "user_stranger")
    for chosen in (tenant.workspace_id, "no-workspace"):
        header = await client.get("/api/agents", headers={"X-Workspace-ID": chosen})
        assert_problem(header, 403, "foreign_workspace")
        query = await client.get("/api/agents", params={"workspace_id": chosen})
        assert_problem(query, 403, "foreign_workspace")


async def test_a_workspace_is_made_chosen_and_renamed(served: Served) -> None:
    client = logged_in(served, "user_founder")
    made = await body(await client.post("/api/workspaces", json={"name": "Acme"}), 201)
    in_acme = {"X-Workspace-ID": made["id"]}

    async def is_known() -> bool:
        return (await client.get("/api/workspaces/current", headers=in_acme)).status_code == 200

    await until(is_known)
    renamed = await client.put(
        "/api/workspaces/current", json={"name": "Acme Ltd"}, headers=in_acme
    )
    assert (await body(renamed))["name"] == "Acme Ltd"
    # The list is asked in another workspace, which does not wait for what was written in this one.
    after = {"Min-Position": renamed.headers["X-Event-Position"]}
    names = {
        each["name"] for each in await body(await client.get("/api/workspaces", headers=after))
    }
    assert "Acme Ltd" in names
    await client.post("/api/agents", json={"name": "In Acme"}, headers=in_acme)
    own = await body(await client.get("/api/agents"))
    assert own == []


@pytest.mark.parametrize("role", ROLES)
async def test_who_is_invited_may_do_what_the_role_says(served: Served, role: str) -> None:
    owner = logged_in(served, f"user_owner_{role}")
    guest = await joined(served, owner, f"user_guest_{role}", role)
    told = await body(await guest.get("/api/users/me"))
    assert told["role"] == role
    tried = {
        "agents:read": await guest.get("/api/agents"),
        "agents:create": await guest.post("/api/agents", json={"name": f"By {role}"}),
        "events:read": await guest.get("/api/events"),
        "keys:read": await guest.get("/api/api-keys"),
        "keys:manage": await guest.post("/api/api-keys", json={"name": "k"}),
        "workspace:manage": await guest.put("/api/workspaces/current", json={"name": "X"}),
    }
    for permission, answer in tried.items():
        if permission in told["permissions"]:
            assert answer.status_code in {200, 201}, (permission, answer.text)
        else:
            assert permission in assert_problem(answer, 403, "not_permitted")["detail"]


async def test_an_invitation_works_once_and_not_when_taken_back(served: Served) -> None:
    owner = logged_in(served, "user_inviter")
    path = "/api/workspaces/current/invitations"
    sent = await body(await owner.post(path, json={"email": "e@x.org", "role": "viewer"}), 201)
    (listed,) = await body(await owner.get(path))
    assert (listed["id"], listed["email"]) == (sent["id"], "e@x.org")
    await body(await owner.delete(f"{path}/{sent['id']}"))
    assert await body(await owner.get(path)) == []
    late = logged_in(served, "user_late")
    refused = await late.post("/api/invitations/accept", json={"token": sent["token"]})
    assert_problem(refused, 404, "not_found")
    nonsense = await late.post("/api/invitations/accept", json={"token": "nonsense"})
    assert_problem(nonsense, 422, "invalid")


async def test_an_invitation_told_again_does_not_tell_its_token(served: Served) -> None:
    owner, path = logged_in(served, "user_again"), "/api/workspaces/current/invitations"
    asked = {"email": "e@x.org", "role": "viewer"}
    keyed = {"Idempotency-Key": "invite-once"}
    first, second = [
        await body(await owner.post(path, json=asked, headers=keyed), 201) for _ in "12"
    ]
    assert (first["id"], second["token"]) == (second["id"], None)
    assert first["token"]


async def test_members_change_roles_leave_and_are_removed(served: Served) -> None:
    owner = logged_in(served, "user_head")
    guest = await joined(served, owner, "user_hand", "editor")
    guest_id = (await body(await guest.get("/api/users/me")))["id"]
    member = f"/api/workspaces/current/members/{guest_id}"
    changed = await body(await owner.put(member, json={"role": "admin"}))
    assert changed == {"user_id": guest_id, "role": "admin"}
    owner_id = (await body(await owner.get("/api/users/me")))["id"]
    head = f"/api/workspaces/current/members/{owner_id}"

    async def is_admin() -> bool:
        told = await guest.get("/api/users/me")
        role: str = told.json()["role"]
        return role == "admin"

    await until(is_admin)
    assert_problem(await guest.delete(head), 403, "not_allowed")
    assert_problem(await owner.delete(head), 409, "last_owner")
    await body(await guest.delete(member))

    async def is_out() -> bool:
        return (await guest.get("/api/agents")).status_code == 403

    await until(is_out)


async def test_nobody_but_a_user_makes_workspaces_or_accepts(tenant: Tenant) -> None:
    made = await tenant.http.post("/api/workspaces", json={"name": "X"})
    assert_problem(made, 403, "not_allowed")
    accepted = await tenant.http.post("/api/invitations/accept", json={"token": "a.b.c"})
    assert_problem(accepted, 403, "not_allowed")


# API keys.


async def test_a_key_does_what_its_scopes_say_until_it_is_revoked(
    served: Served, tenant: Tenant
) -> None:
    made = await body(
        await tenant.http.post("/api/api-keys", json={"name": "ci", "scopes": ["read"]}), 201
    )
    reader = served.client(made["key"])
    assert (await reader.get("/api/agents")).status_code == 200
    refused = await reader.post("/api/agents", json={"name": "By a reader"})
    assert_problem(refused, 403, "not_permitted")
    listed = {each["id"]: each for each in await body(await tenant.http.get("/api/api-keys"))}
    assert listed[made["id"]]["masked"].startswith(f"atk_live_{made['id']}_")
    assert made["key"] not in str(listed)
    await body(await tenant.http.delete(f"/api/api-keys/{made['id']}"))

    async def is_refused() -> bool:
        return (await reader.get("/api/agents")).status_code == 401

    await until(is_refused)


async def test_a_rotated_key_and_its_heir_both_open_for_the_overlap(
    served: Served, tenant: Tenant
) -> None:
    old = await body(
        await tenant.http.post("/api/api-keys", json={"name": "ci", "scopes": ["read"]}), 201
    )
    heir = await body(
        await tenant.http.post(f"/api/api-keys/{old['id']}/rotate", json={"overlap_hours": 1}), 201
    )
    assert (heir["name"], heir["scopes"]) == ("ci", ["read"])
    for key in (old["key"], heir["key"]):
        assert (await served.client(key).get("/api/agents")).status_code == 200


async def test_a_key_rotated_without_overlap_ends_at_once(served: Served, tenant: Tenant) -> None:
    old = await body(
        await tenant.http.post("/api/api-keys", json={"name": "ci", "scopes": ["read"]}), 201
    )
    client = served.client(old["key"])
    assert (await client.get("/api/agents")).status_code == 200
    await tenant.http.post(f"/api/api-keys/{old['id']}/rotate", json={"overlap_hours": 0})

    async def is_refused() -> bool:
        return (await client.get("/api/agents")).status_code == 401

    await until(is_refused)


async def test_nobody_makes_a_key_that_may_do_more_than_himself(
    served: Served, tenant: Tenant
) -> None:
    made = await body(
        await tenant.http.post("/api/api-keys", json={"name": "boss", "scopes": ["admin"]}), 201
    )
    boss = served.client(made["key"])
    refused = await boss.post("/api/api-keys", json={"name": "more", "scopes": ["write"]})
    assert_problem(refused, 403, "not_allowed")


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"name": ""}, 400, "bad_body"),
        ({"name": "k", "scopes": []}, 400, "bad_body"),
        ({"name": "k", "scopes": ["everything"]}, 400, "bad_body"),
        ({"name": "k", "expires_at": "2020-01-01T00:00:00Z"}, 422, "invalid"),
        ({"name": "k", "expires_at": "2999-01-01T00:00:00Z"}, 422, "invalid"),
        ({"name": "k", "expires_at": "2999-01-01T00:00:00"}, 422, "invalid"),
    ],
    ids=str,
)
async def test_a_key_asked_for_badly_is_not_made(
    tenant: Tenant, asked: dict[str, object], status: int, code: str
) -> None:
    assert_problem(await tenant.http.post("/api/api-keys", json=asked), status, code)
    assert len(await body(await tenant.http.get("/api/api-keys"))) == 1


async def test_another_workspaces_key_and_none_look_alike(
    served: Served, tenant: Tenant, other: Tenant
) -> None:
    (theirs,) = await body(await other.http.get("/api/api-keys"))
    for method, path in (("DELETE", "{}"), ("POST", "{}/rotate")):
        answers = [
            await tenant.http.request(method, f"/api/api-keys/{path.format(key_id)}", json={})
            for key_id in (theirs["id"], "0000000000")
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json()["detail"] == answers[1].json()["detail"]
