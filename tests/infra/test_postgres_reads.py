"""Read models in PostgreSQL: the database itself shows a query one workspace only."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError, ProgrammingError

from commands.transact import StorageUnavailable
from domain.events import WorkspaceId
from infra.postgres import connections
from infra.postgres.connections import CONNECTING
from infra.postgres.keys import PostgresKeys
from infra.postgres.migrations import migrate
from infra.postgres.reads import PostgresReads, open_engine
from projections.identity import workspaces
from projections.rows import READ_MODELS
from tests.contracts.stores import ACME, GLOBEX
from tests.servers.proxy import Proxy

PATIENCE_S = 0.3
CONNECTING_LEAST_S = 2
"""The driver takes any less for this."""

WAIT_MAX_S = 60.0

OWNER = "automatos_test_owner"

REST = {"slug": "", "personal": False, "created_at": 0}


@pytest.fixture
def url(postgres_url: str) -> str:
    """Give a database whose owner is no superuser: for one, no row security counts."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            f"""
            DO $$ BEGIN CREATE ROLE {OWNER} LOGIN CREATEROLE;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$
        """.encode()
        )
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" OWNER TO {OWNER}'.encode())
        connection.execute(f"ALTER SCHEMA public OWNER TO {OWNER}".encode())
        connection.execute(
            f"""
            DO $$ BEGIN GRANT automatos_app TO {OWNER};
            EXCEPTION WHEN undefined_object THEN NULL; END $$
        """.encode()
        )
    owned = postgres_url.replace("//postgres@", f"//{OWNER}@")
    migrate(owned)
    engine = open_engine(owned)
    with engine.begin() as connection:
        for workspace_id in (ACME, GLOBEX):
            row = {"workspace_id": workspace_id, "name": workspace_id} | REST
            connection.execute(workspaces.insert().values(row))
    engine.dispose()
    return owned


@pytest.fixture
def reads(url: str) -> Iterator[PostgresReads]:
    with closing(PostgresReads(url)) as reads:
        yield reads


def names(connection: Connection, _workspace_id: WorkspaceId | None = None) -> list[str]:
    """A query that has forgotten its filter."""
    return sorted(connection.scalars(select(workspaces.c.name)))


async def test_a_query_without_its_filter_still_sees_one_workspace(reads: PostgresReads) -> None:
    for _ in range(3):
        assert await reads.ask_in(ACME, names) == [ACME]
        assert await reads.ask_in(GLOBEX, names) == [GLOBEX]
        assert await reads.ask_in(WorkspaceId("none"), names) == []
    assert await reads.ask(names) == [ACME, GLOBEX]


async def test_a_query_that_names_every_workspace_by_its_sign_sees_none_of_them(
    reads: PostgresReads,
) -> None:
    with pytest.raises(ValueError, match="names no workspace"):
        await reads.ask_in(WorkspaceId("*"), names)


def test_not_even_the_owner_sees_rows_of_no_named_workspace(url: str) -> None:
    with psycopg.connect(url) as connection:
        for table in READ_MODELS.tables.values():
            if "workspace_id" in table.columns:
                query = f'SELECT count(*) FROM "{table.name}"'
                assert connection.execute(query.encode()).fetchone() == (0,), table.name


async def test_what_one_workspace_is_shown_cannot_be_written_for_another(
    reads: PostgresReads,
) -> None:
    def write(connection: Connection, _workspace_id: WorkspaceId) -> None:
        row = {"workspace_id": GLOBEX, "name": "forged"} | REST
        connection.execute(workspaces.insert().values(row))

    with pytest.raises(ProgrammingError, match="row-level security"):
        await reads.ask_in(ACME, write)


# A server that hangs: it takes what it is asked, and never answers.


@pytest.fixture
def network(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(connections, "ANSWER_WAIT_S", PATIENCE_S)
    monkeypatch.setitem(CONNECTING, "connect_timeout", CONNECTING_LEAST_S)
    with Proxy(urlsplit(url).port or 0) as proxy:
        yield proxy


async def test_a_query_that_is_not_answered_ends_and_later_ones_are_served(
    url: str, network: Proxy
) -> None:
    with closing(PostgresReads(network.url(url), pool_size=1)) as reads:
        assert await reads.ask_in(ACME, names) == [ACME]
        network.drop_answers()
        async with asyncio.timeout(WAIT_MAX_S):
            with pytest.raises(OperationalError):
                await reads.ask_in(ACME, names)
        network.restore()
        assert await reads.ask_in(ACME, names) == [ACME]


def test_a_key_that_is_not_answered_is_said_to_be_unavailable(url: str, network: Proxy) -> None:
    with closing(PostgresKeys(network.url(url))) as keys:
        assert keys.find(ACME, "subject") is None
        network.drop_answers()
        with pytest.raises(StorageUnavailable):
            keys.find(ACME, "subject")
        network.restore()
        assert keys.find(ACME, "subject") is None
