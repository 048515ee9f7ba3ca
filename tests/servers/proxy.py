"""A network between a client and a server that a test can disturb.

It runs in a thread of its own, so that blocking clients can be tested as well
as asynchronous ones. What it does is switched at any time, from any thread.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.servers.server import LOCAL, free_port

T = TypeVar("T")

PIECE_MAX_BYTES = 65_536
SWITCH_MAX_S = 10.0
PROCESSED_MAX_S = 30.0


class Link:
    """One client's connection, and the one to the server that answers it."""

    def __init__(self, proxy: "Proxy") -> None:
        self._proxy = proxy
        self.cut = False

    async def ask(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Pass requests on; after the last one the server is told that there are no more."""
        async for piece in _pieces(client):
            # A request may come in several pieces, and is answered after the last one.
            self.cut = self.cut or self._proxy.takes_as_fatal(piece)
            server.write(piece)
            await server.drain()
        if server.can_write_eof():
            server.write_eof()

    async def answer(
        self,
        server: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        asking: asyncio.StreamWriter,
    ) -> None:
        """Pass answers on; of a connection being cut read them all, since then all is done."""
        async for piece in _pieces(server):
            await asyncio.sleep(self._proxy.delay_s)
            if self.cut:
                asking.write_eof()
            elif not self._proxy.drops_answers:
                client.write(piece)
                await client.drain()


class Proxy:
    """A port that leads to a server.

    Attributes:
        cuts: How many connections were cut by `cut_after`.
    """

    def __init__(self, target_port: int, *, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self.drops_answers = False
        self.delay_s = 0.0
        self.cuts = 0
        self._target_port = target_port
        self._fatal: Callable[[bytes], bool] | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def bootstrap(self) -> str:
        return f"{LOCAL}:{self.port}"

    def url(self, url: str) -> str:
        """Lead a server's URL through here."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user[0]}{user[1]}{self.bootstrap}").geturl()

    def cut_after(self, fatal: Callable[[bytes], bool]) -> None:
        """Cut one connection once the server has done what `fatal` is true of.

        Args:
            fatal: Looks at what a client sent, piece by piece. The first piece that it is true
                of still reaches the server; the answer to it does not reach the client.
        """
        self._fatal = fatal

    def drop_answers(self) -> None:
        """Let requests through and swallow the answers, while connections stay open."""
        self.drops_answers = True

    def delay(self, seconds: float) -> None:
        """Hold back each answer."""
        self.delay_s = seconds

    def refuse(self) -> None:
        """Refuse new connections and break those there are."""
        self._run(self._close())

    def restore(self) -> None:
        """Be a faultless network again; what was broken stays broken."""
        self._fatal = None
        self.drops_answers = False
        self.delay_s = 0.0
        self._run(self._listen())

    def takes_as_fatal(self, piece: bytes) -> bool:
        if self._fatal is None or not self._fatal(piece):
            return False
        self._fatal = None
        return True

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SWITCH_MAX_S)
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SWITCH_MAX_S)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, LOCAL, self.port)

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _accept(self, asked: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        link = asyncio.ensure_future(self._link(asked, client))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, asked: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        link = Link(self)
        try:
            answers, server = await asyncio.open_connection(LOCAL, self._target_port)
            try:
                await _both(link.ask(asked, server), link.answer(answers, client, server))
            finally:
                server.transport.abort()
        except OSError:
            return
        finally:
            self.cuts += link.cut
            client.transport.abort()


async def _both(ask: Coroutine[Any, Any, None], answer: Coroutine[Any, Any, None]) -> None:
    """Carry both ways until the server ends, or a bounded time after the client has ended."""
    ways = [asyncio.ensure_future(ask), asyncio.ensure_future(answer)]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(ways[1:], timeout=PROCESSED_MAX_S)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    with suppress(OSError):
        while piece := await reader.read(PIECE_MAX_BYTES):
            yield piece
