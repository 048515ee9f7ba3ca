"""The HTTP client under both SDKs, with nothing left to the environment."""

from typing import TYPE_CHECKING

from infra.llm.exchange import Timeouts

if TYPE_CHECKING:
    import httpx2


def http_client(timeouts: Timeouts) -> "httpx2.AsyncClient":
    """Proxies and redirects could carry a key to a stranger, so neither is followed.

    Only connecting is bounded here; `receive` bounds the rest, because it can
    tell the first byte from the others.
    """
    import httpx2  # noqa: PLC0415

    return httpx2.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(
            timeouts.total_s, connect=timeouts.connect_s, pool=timeouts.connect_s
        ),
        limits=httpx2.Limits(max_connections=100, max_keepalive_connections=20),
    )
