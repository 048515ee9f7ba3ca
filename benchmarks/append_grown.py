"""Appends to a log of millions of events, against one that has just begun."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from benchmarks.append_postgres import ours_in
from benchmarks.events import OURS, WORKSPACE, metadata
from benchmarks.measure import Row, Sample, Size, alternate
from infra.event_store.codec import Codec
from infra.ids import new_uuid
from infra.postgres.migrations import migrate
from infra.vault import Vault
from tests.servers.postgres import postgres

FEW = 10_000
STREAM_EVENTS = 10
"""Events of each stream that is there already."""

CONCURRENT = 64
TARGET = 0.9

# Triggers are off meanwhile, and every index is kept up: the pages are those of a log that grew.
_FILL = b"""
INSERT INTO stored_events
SELECT n, 'run-' || %(workspace)s || '+' || lpad(((n - 1) / %(each)s)::text, 12, '0'),
    (n - 1) %% %(each)s + 1, %(tag)s, %(body)s, %(workspace)s
FROM generate_series(1, %(count)s::bigint) AS n
"""
_FILL_COMMANDS = b"""
INSERT INTO commands
SELECT '01900000-0000-7000-8000-' || lpad(n::text, 12, '0'), %(workspace)s, NULL, NULL, n, now()
FROM generate_series(1, %(count)s::bigint) AS n
"""


def rows(size: Size) -> Iterator[Row]:
    # The server shares this machine's processors with those who ask it, as all systems here do.
    with postgres(settings={"shared_buffers": "256MB", "max_wal_size": "4GB"}) as server:
        grown, few = filled(server.url, size.grown), filled(server.url, FEW)
        systems = {
            "ours": partial(appended, url=grown, seconds=size.seconds),
            f"{FEW:,} events": partial(on_copy, url=few, seconds=size.seconds),
        }
        found = alternate(size.rounds, systems)
    what = f"append, PostgreSQL, {CONCURRENT} concurrent, to {size.grown:,} events"
    yield found.row(what, "ours", f"{FEW:,} events", target=TARGET)


def filled(url: str, count: int) -> str:
    """Make a database whose log has so many events, and as many commands of today."""
    name = f"bench_{uuid4().hex}"
    _administer(url, f"CREATE DATABASE {name}")
    own = urlsplit(url)._replace(path=f"/{name}").geturl()
    migrate(own)
    body = Codec(Vault()).encode(OURS, new_uuid(), metadata())
    values = {"workspace": WORKSPACE, "each": STREAM_EVENTS, "tag": OURS.tag(), "body": body}
    with closing(psycopg.connect(own, autocommit=True)) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(_FILL, values | {"count": count})
        connection.execute(_FILL_COMMANDS, values | {"count": count})
        connection.execute("VACUUM ANALYZE")
    return own


def appended(_: Path, *, url: str, seconds: float) -> Sample:
    """Begin behind a checkpoint: neither log is flushed for what came before."""
    _administer(url, "CHECKPOINT")
    return ours_in(url, concurrent=CONCURRENT, seconds=seconds)


def on_copy(folder: Path, *, url: str, seconds: float) -> Sample:
    """Append to a copy, which is as small in every round."""
    copied = f"bench_{uuid4().hex}"
    parts = urlsplit(url)
    admin = parts._replace(path="/postgres").geturl()
    _administer(admin, f"CREATE DATABASE {copied} TEMPLATE {parts.path[1:]}")
    sample = appended(folder, url=parts._replace(path=f"/{copied}").geturl(), seconds=seconds)
    _administer(admin, f"DROP DATABASE {copied} WITH (FORCE)")
    return sample


def _administer(url: str, statement: str) -> None:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute(statement.encode())
