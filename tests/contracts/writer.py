"""A process that appends to a log and tells each append that was acknowledged.

Run as `python -m tests.contracts.writer FOLDER NAME COUNT`: eight tasks write to streams
of their own, each event with a text and a command, until every stream has COUNT events.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from commands.transact import Write
from domain.agents import AGENT
from domain.events import StreamId
from infra.event_store.sqlite import SqliteLog
from infra.event_store.store import EventStore
from infra.vault import Vault
from tests.contracts.stores import ACME, append, tagged

TASKS = 8
ROOT = Path(__file__).resolve().parents[2]


class Ack(NamedTuple):
    """What a writer was told of one append, and what it passes on."""

    stream_id: StreamId
    version: int
    position: int

    @property
    def command_id(self) -> str:
        return f"{self.stream_id}@{self.version}"


def open_store(folder: Path) -> EventStore:
    return EventStore(SqliteLog(folder / "events.db"), Vault(folder / "keys.db"))


def acks(told: IO[str]) -> Iterator[Ack]:
    """Read what a writer tells, up to its end."""
    for line in told:
        stream_id, version, position = line.split()
        yield Ack(StreamId(stream_id), int(version), int(position))


@contextmanager
def writing(folder: Path, name: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """Let a process write; it is killed at the latest when this ends."""
    arguments = [sys.executable, "-m", __spec__.name, str(folder), name, str(count)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def _write(store: EventStore, stream_id: StreamId, count: int) -> None:
    version = (await store.load(AGENT, stream_id)).version
    while version < count:
        text = f"{stream_id}@{version + 1}"
        write = Write(stream_id, version, [tagged(text)])
        blobs = [store.seal(ACME, text)]
        position = await append(store, write, command_id=text, blobs=blobs)
        version += 1
        # One write of the whole line: a line that was begun is a line that was told.
        os.write(1, f"{stream_id} {version} {position}\n".encode())


async def _main(folder: Path, name: str, count: int) -> None:
    with closing(open_store(folder)) as store:
        streams = [AGENT.stream_id(ACME, f"{name}{task}") for task in range(TASKS)]
        await asyncio.gather(*(_write(store, each, count) for each in streams))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
