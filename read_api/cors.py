"""Which pages of other origins may ask us, and what they may see of the answers.

Not Litestar's, which answers inside of our own refusals, so that a browser would show none of
them, and knows one policy for all paths. What comes without an Origin costs nothing here.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from litestar.types import Message, Scope, Send

from read_api.raw import Headers, send_answer

METHODS = b"GET, POST, PUT, DELETE, PATCH, OPTIONS"

ASKED = (
    b"Accept, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
    b"Last-Event-ID, Min-Position, X-API-Key, X-Request-ID, X-Workspace-ID"
)
"""Headers that a page may send."""

EXPOSED = (
    b"ETag, Idempotent-Replayed, RateLimit, RateLimit-Policy, Retry-After, X-Event-Position, "
    b"X-Request-ID, X-Routing-Agent-ID, X-Routing-Confidence, X-Routing-Reasoning, "
    b"X-Routing-Request-ID, X-Routing-Type, X-Stale, X-Total-Count"
)
"""Headers of an answer that a page may read; none but those named."""

MAX_AGE_S = 600
"""How long a browser may go without asking again."""

WIDGETS: Final = "/api/widget"
"""Paths that foreign sites embed, with a key of their own."""

NO_CONTENT = 204


class Policy(msgspec.Struct, frozen=True):
    """Attributes:
    origins: Those that may ask, spelled as browsers do; None for all, who then ask without
        the browser's credentials.
    """

    origins: frozenset[bytes] | None

    def granted(self, origin: bytes) -> Headers:
        """Give what tells a browser that an origin may, and whatever the answer, to ask anew for
        each origin.
        """
        if self.origins is None:
            return [(b"access-control-allow-origin", b"*")]
        varies = [(b"vary", b"Origin")]
        if origin not in self.origins:
            return varies
        allowed = (b"access-control-allow-origin", origin)
        return [*varies, allowed, (b"access-control-allow-credentials", b"true")]


class Cors:
    """Two policies: the frontend's, and that of widgets."""

    def __init__(
        self, origins: frozenset[bytes] = frozenset(), widgets: frozenset[bytes] | None = None
    ) -> None:
        self._frontend = Policy(origins)
        self._widgets = Policy(widgets)

    def policy(self, path: str) -> Policy:
        return self._widgets if path.startswith(WIDGETS) else self._frontend

    def showing(self, scope: Scope, found: Mapping[bytes, bytes], send: Send) -> Send:
        """Let the asking page see whatever is answered, refusals too."""
        granted = self.policy(scope["path"]).granted(found[b"origin"])
        if len(granted) > 0 and granted[-1][0] != b"vary":
            granted = [*granted, (b"access-control-expose-headers", EXPOSED)]

        async def shown(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *granted]
            await send(message)

        return shown


def is_preflight(scope: Scope, found: Mapping[bytes, bytes]) -> bool:
    """Tell the question a browser asks before it sends what a page wants."""
    return (
        b"access-control-request-method" in found
        and b"origin" in found
        and scope["method"] == "OPTIONS"  # type: ignore[typeddict-item]
    )


async def answer_preflight(cors: Cors, scope: Scope, origin: bytes, send: Send) -> None:
    """Answer it; an origin that may not ask is told nothing, and its browser refuses."""
    granted = cors.policy(scope["path"]).granted(origin)
    may = any(name == b"access-control-allow-origin" for name, _ in granted)
    terms = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", ASKED),
        (b"access-control-max-age", b"%d" % MAX_AGE_S),
    ]
    await send_answer(send, NO_CONTENT, [*granted, *(terms if may else ())], b"")


def origins(text: str) -> frozenset[bytes]:
    """Read a list of origins, separated by commas."""
    return frozenset(part.strip().encode() for part in text.split(",") if part.strip())
