"""Writes docs/permissions.md, who may do what, from the code itself.

`python -m docs.permissions` writes it anew; tests/architecture/test_permissions.py fails when the
page is stale.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from litestar import Litestar
from litestar.routes import HTTPRoute

from domain.identity import OPERATE, Permission, Role, Scope, of_role, of_scopes
from read_api.auth import ANYBODY, PERMISSION, PUBLIC

OF_ALL = ", ".join(f"`{each}`" for each in sorted(OPERATE))
PAGE = Path(__file__).with_name("permissions.md")


def guarded(app: Litestar) -> Iterator[tuple[str, str, str | None]]:
    """Give each route's method and path, and what it demands; None if it has no guard."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for method in sorted(handler.http_methods - {"OPTIONS", "HEAD"}):
                    opt = handler.opt
                    demanded = "public" if opt.get(PUBLIC) else opt.get(PERMISSION)
                    yield str(method), route.path, demanded


def page(app: Litestar) -> str:
    """Spell the page."""
    routes = sorted((path, method, demanded) for method, path, demanded in guarded(app) if demanded)
    lines = [
        "# Who may do what",
        "",
        "Written from the code by `python -m docs.permissions`; a test fails when it is stale.",
        "Roles are those of members; scopes are those of API keys: a key may do what any of its",
        "scopes may. An owner may do what an admin may, and make, invite and remove owners.",
        "",
        *_matrix(),
        "",
        f"{OF_ALL}: of the whole installation, so only in",
        "the platform workspace (`00000000-0000-0000-0000-000000000000`); where nobody logs in and",
        "there is one process, in the local workspace as well.",
        "",
        "## What each route demands",
        "",
        f"`public` is answered without credentials; `{ANYBODY}` with any that are valid.",
        "",
        "| route | demands |",
        "|---|---|",
        *(f"| `{method} {path}` | `{demanded}` |" for path, method, demanded in routes),
    ]
    return "\n".join(lines) + "\n"


def _matrix() -> Iterator[str]:
    roles, scopes = get_args(Role), get_args(Scope)
    yield f"| permission | {' | '.join(roles)} | {' | '.join(f'key: {s}' for s in scopes)} |"
    yield f"|---|{'---|' * (len(roles) + len(scopes))}"
    for permission in get_args(Permission):
        yes = "platform" if permission in OPERATE else "yes"
        held = [permission in of_role(role, operates=True) for role in roles]
        held += [permission in of_scopes((scope,), operates=True) for scope in scopes]
        yield f"| `{permission}` | {' | '.join(yes if each else '' for each in held)} |"


if __name__ == "__main__":
    from docs.composed import composed

    PAGE.write_text(page(composed()), "utf-8")
