"""uvicorn's HTTP, with a way to end a connection whose client does not read.

uvicorn closes in order only: it first sends what waits, to the very client that takes nothing.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from read_api.streams import BREAK_OFF


class Http(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Copied into the scope of each of the connection's requests.
        self.app_state = {**self.app_state, BREAK_OFF: transport.abort}
