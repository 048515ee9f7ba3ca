"""No route without a guard, and the page that tells who may do what is current."""

from functools import cache

from litestar import Litestar, get

from docs.composed import composed
from docs.permissions import PAGE, guarded, page
from read_api.auth import ANYBODY

OPEN_TO_ANYBODY = {
    ("GET", "/api/users/me"),
    ("GET", "/api/workspaces"),
    ("POST", "/api/workspaces"),
    ("DELETE", "/api/workspaces/current/members/{user_id:str}"),
    ("POST", "/api/invitations/accept"),
}
"""About the caller himself, in whatever workspace."""

READING = {("POST", "/api/events/ticket")}
"""Gives no more than the reading itself does."""

PUBLIC = {"/", "/health", "/health/live", "/health/ready"}


@cache
def app() -> Litestar:
    return composed()


def unguarded(app: Litestar) -> list[str]:
    return [f"{method} {path}" for method, path, demanded in guarded(app) if demanded is None]


def test_every_route_has_a_guard() -> None:
    assert unguarded(app()) == []


def test_a_route_without_a_guard_is_found() -> None:
    @get("/forgotten")
    async def forgotten() -> None: ...

    found = unguarded(Litestar([forgotten], openapi_config=None))
    assert found == ["GET /forgotten"]


def test_what_changes_something_demands_more_than_reading() -> None:
    lax = [
        f"{method} {path}"
        for method, path, demanded in guarded(app())
        if (method, path) not in READING and method != "GET" and (demanded or "").endswith(":read")
    ]
    assert lax == []


def test_few_routes_are_open_to_anybody() -> None:
    found = {(method, path) for method, path, demanded in guarded(app()) if demanded == ANYBODY}
    assert found == OPEN_TO_ANYBODY


def test_only_health_and_documentation_are_public() -> None:
    found = {path for _, path, demanded in guarded(app()) if demanded == "public"}
    assert {path for path in found if not path.startswith("/docs")} == PUBLIC


def test_the_page_of_permissions_is_current() -> None:
    assert PAGE.read_text("utf-8") == page(app()), "write it with `python -m docs.permissions`"
