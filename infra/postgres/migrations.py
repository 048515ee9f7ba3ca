"""The schema, forward only. Safe to run twice, and by several processes at once."""

from collections.abc import Callable

import psycopg
from sqlalchemy import Table, create_engine
from sqlalchemy.engine import Connection

from infra.failpoints import failpoint
from infra.postgres.connections import APP_ROLE, sqlalchemy_url
from infra.read_store import make_read_models
from projections.rows import READ_MODELS

MIGRATION_LOCK = 727_002
"""Advisory lock of whoever migrates; 727001 is the log's own."""

_LOG = """
CREATE TABLE stored_events (
    position bigint PRIMARY KEY,
    originator_id text COLLATE "C" NOT NULL,
    originator_version bigint NOT NULL,
    topic text NOT NULL,
    state bytea NOT NULL,
    workspace_id text COLLATE "C" NOT NULL,
    UNIQUE (originator_id, originator_version)
);
CREATE INDEX stored_events_by_workspace ON stored_events (workspace_id, position);
CREATE TABLE commands (
    command_id text COLLATE "C" PRIMARY KEY,
    workspace_id text NOT NULL,
    fingerprint text,
    answer bytea,
    position bigint,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX commands_by_age ON commands USING brin (recorded_at);
CREATE TABLE blobs (
    workspace_id text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (workspace_id, address)
);
CREATE VIEW notifications AS
SELECT position AS notification_id, originator_id, originator_version, topic, state
FROM stored_events;
CREATE TABLE notification_tracking (
    application_name text PRIMARY KEY,
    notification_id bigint NOT NULL
);
CREATE VIEW events AS
SELECT position, originator_id AS stream_id, originator_version AS stream_version,
    topic AS type, workspace_id, convert_from(state, 'UTF8')::json AS body
FROM stored_events;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are never changed or deleted' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER stored_events_are_never_changed
BEFORE UPDATE OR DELETE OR TRUNCATE ON stored_events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION refuse_gaps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added a WHERE a.originator_version > 1 AND NOT EXISTS (
            SELECT FROM stored_events e WHERE e.originator_id = a.originator_id
            AND e.originator_version = a.originator_version - 1
        )
    ) THEN
        RAISE EXCEPTION 'a stream would have a gap' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER streams_have_no_gaps
AFTER INSERT ON stored_events REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION refuse_gaps();
"""

_KEYS = """
CREATE TABLE keys (
    workspace_id text NOT NULL,
    subject text NOT NULL,
    key bytea NOT NULL,
    PRIMARY KEY (workspace_id, subject)
);
"""

_PROCESSES = """
CREATE TABLE leases (
    name text PRIMARY KEY,
    owner text NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE TABLE topics (
    name text PRIMARY KEY,
    partitions integer NOT NULL
);
CREATE TABLE relay_checkpoints (
    topic text NOT NULL,
    partition integer NOT NULL,
    published bigint NOT NULL,
    passed bigint NOT NULL,
    PRIMARY KEY (topic, partition)
);
CREATE TABLE heartbeats (
    process text NOT NULL,
    instance text NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (process, instance)
);
"""

_STATISTICS = """
CREATE TABLE endpoint_calls (
    endpoint text COLLATE "C" NOT NULL,
    status bigint NOT NULL,
    calls bigint NOT NULL,
    total_us bigint NOT NULL,
    min_us bigint NOT NULL,
    max_us bigint NOT NULL,
    last_called_us bigint NOT NULL,
    within_5_ms bigint NOT NULL,
    within_10_ms bigint NOT NULL,
    within_25_ms bigint NOT NULL,
    within_50_ms bigint NOT NULL,
    within_100_ms bigint NOT NULL,
    within_250_ms bigint NOT NULL,
    within_500_ms bigint NOT NULL,
    within_1000_ms bigint NOT NULL,
    within_2500_ms bigint NOT NULL,
    within_5000_ms bigint NOT NULL,
    within_10000_ms bigint NOT NULL,
    longer bigint NOT NULL,
    PRIMARY KEY (endpoint, status)
);
"""

_GAPS_BY_INDEX = """
-- A connection keeps the plan that it made while the table was small, and that would read the
-- whole of it ever after: so no scan, and no join (which the limit prevents).
CREATE OR REPLACE FUNCTION refuse_gaps() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added a WHERE a.originator_version > 1 AND (
            SELECT true FROM stored_events e WHERE e.originator_id = a.originator_id
            AND e.originator_version = a.originator_version - 1 LIMIT 1
        ) IS NULL
    ) THEN
        RAISE EXCEPTION 'a stream would have a gap' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
"""

# Not logged: a ticket lives half a minute, and whoever loses it takes another.
_TICKETS = """
CREATE UNLOGGED TABLE tickets (
    digest bytea PRIMARY KEY,
    sealed bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
"""

MIGRATIONS: tuple[str, ...] = (_LOG, _KEYS, _PROCESSES, _STATISTICS, _GAPS_BY_INDEX, _TICKETS)
"""In order; a migration that was released is never changed."""

_RIGHTS = f"""
GRANT USAGE ON SCHEMA public TO {APP_ROLE};
GRANT SELECT, INSERT ON stored_events, blobs, keys TO {APP_ROLE};
GRANT SELECT ON events, notifications, migrations TO {APP_ROLE};
GRANT SELECT, INSERT, UPDATE ON notification_tracking, endpoint_calls TO {APP_ROLE};
GRANT SELECT, INSERT, DELETE ON commands, tickets TO {APP_ROLE};
GRANT SELECT, INSERT, UPDATE, DELETE
ON leases, topics, relay_checkpoints, heartbeats TO {APP_ROLE};
"""

WORKSPACE_SETTING = "automatos.workspace"
EVERY_WORKSPACE = "*"


class SchemaIsNewer(Exception):
    """The database was migrated by a later release than this one."""


class SchemaIsOld(Exception):
    """The database has not been migrated to this release."""


def migrate(url: str, *, tell: Callable[[str], None] = lambda _: None) -> int:
    """Bring the schema up to date; tell its version.

    Connects as the owner of the tables. What serves takes the role `automatos_app`, which
    may add events but neither change nor remove one.

    Raises:
        SchemaIsNewer: Nothing was changed.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        _prepare(connection)
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise SchemaIsNewer(f"Schema {version}; this release knows {len(MIGRATIONS)}.")
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
            with connection.transaction():
                connection.execute(statements.encode())
                connection.execute("INSERT INTO migrations VALUES (%s, now())", (number,))
                failpoint("migrate.in_step")
            failpoint("migrate.after_step")
            tell(f"migrated to {number}")
        failpoint("migrate.before_rights")
        connection.execute(_RIGHTS.encode())
        failpoint("migrate.after_rights")
        _make_read_models(url)
        failpoint("migrate.done")
    return len(MIGRATIONS)


def check_schema(url: str) -> None:
    """Refuse to serve on a schema of another release.

    Raises:
        SchemaIsNewer, SchemaIsOld: It is one.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT to_regclass('migrations')").fetchone()
        version = 0 if found is None or found[0] is None else _version(connection)
    if version < len(MIGRATIONS):
        raise SchemaIsOld("Run `automatos migrate` first.")
    if version > len(MIGRATIONS):
        raise SchemaIsNewer(f"Schema {version}; this release knows {len(MIGRATIONS)}.")


def _prepare(connection: psycopg.Connection) -> None:
    failpoint("migrate.before_role")
    connection.execute(_MAKE_ROLE.encode())
    failpoint("migrate.before_right")
    connection.execute(_TAKE_ROLE.encode())
    failpoint("migrate.before_table")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations"
        " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL)"
    )


_MAKE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APP_ROLE}') THEN
        CREATE ROLE {APP_ROLE} NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$
"""
"""Roles belong to the whole server: another database's migration may make it right now."""

_TAKE_ROLE = f"""
DO $$ BEGIN
    SET ROLE {APP_ROLE};
    RESET ROLE;
EXCEPTION WHEN insufficient_privilege THEN
    EXECUTE format('GRANT {APP_ROLE} TO %I', current_user);
END $$
"""
"""Whoever makes a role may not yet take it (PostgreSQL 16 and later)."""


def _version(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    assert row is not None
    return int(row[0])


def _make_read_models(url: str) -> None:
    # Imported here: the composition root knows which projectors there are, and imports us.
    from infra.composition import PROJECTORS  # noqa: PLC0415

    engine = create_engine(sqlalchemy_url(url))
    with engine.begin() as connection:
        make_read_models(connection, PROJECTORS)
        for table in READ_MODELS.tables.values():
            secure(connection, table)
        failpoint("migrate.in_read_models")
    engine.dispose()


def secure(connection: Connection, table: Table) -> None:
    """Let the serving role use a read model, one workspace at a time where rows have one.

    Forced, so that not even the tables' owner sees rows that no workspace was named for.
    """
    name = table.name
    connection.exec_driver_sql(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{name}" TO {APP_ROLE}')
    if "workspace_id" not in table.columns:
        return
    named = f"current_setting('{WORKSPACE_SETTING}', true)"
    seen = f"workspace_id = {named} OR {named} = '{EVERY_WORKSPACE}'"
    for statement in (
        f'ALTER TABLE "{name}" ENABLE ROW LEVEL SECURITY',
        f'ALTER TABLE "{name}" FORCE ROW LEVEL SECURITY',
        f'DROP POLICY IF EXISTS of_workspace ON "{name}"',
        f'CREATE POLICY of_workspace ON "{name}" USING ({seen})',
    ):
        connection.exec_driver_sql(statement)
