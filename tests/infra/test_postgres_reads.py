"""Read models in PostgreSQL: the database itself shows a query one workspace only."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import ProgrammingError

from domain.events import WorkspaceId
from infra.postgres.migrations import migrate
from infra.postgres.reads import PostgresReads, open_engine
from projections.identity import workspaces
from projections.projector import READ_MODELS
from tests.contracts.stores import ACME, GLOBEX

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
