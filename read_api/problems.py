"""The page that explains each problem type: where the `type` of a refusal leads."""

from html import escape

from litestar import MediaType, get

import commands.transact
import domain.errors
from commands.transact import CommandError
from domain.errors import DomainError
from read_api import errors
from read_api.auth import PUBLIC
from read_api.errors import ApiError

_OTHERS = {
    "bad_parameter": "A path, query or header parameter that does not have its form.",
    "no_such_route": "No route has this path.",
    "method_not_allowed": "The route does not take this method.",
    "body_too_large": "The body is larger than the route takes.",
    "internal_error": "Our own mistake; the log has the reason under the request id.",
}


def explained() -> dict[str, str]:
    """Explain every code: the first sentence of its error's docstring."""
    found = dict(_OTHERS)
    for module, base in (
        (domain.errors, DomainError),
        (commands.transact, CommandError),
        (errors, ApiError),
    ):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, base) and kind is not base:
                found[kind.code] = (kind.__doc__ or "").strip().partition("\n")[0]
    return dict(sorted(found.items()))


@get(
    "/docs/problems",
    media_type=MediaType.HTML,
    opt={PUBLIC: True},
    include_in_schema=False,
)
async def problems_page() -> str:
    rows = "".join(
        f'<dt id="{code}"><code>{code}</code></dt><dd>{escape(text)}</dd>'
        for code, text in explained().items()
    )
    return f"<!DOCTYPE html><title>Problem types</title><h1>Problem types</h1><dl>{rows}</dl>"
