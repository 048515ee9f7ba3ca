"""Keys of subjects and workspaces in PostgreSQL, where every process finds them."""

import threading
from typing import Any

import psycopg

from domain.events import WorkspaceId
from infra.postgres.connections import CONNECTING, BoundedThreadConnection, unavailable


class PostgresKeys:
    """Implements `infra.vault.Keys`. Asked once per subject and process: the vault remembers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._connection: BoundedThreadConnection | None = None

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def find(self, workspace_id: WorkspaceId, subject: str) -> bytes | None:
        rows = self._execute(
            "SELECT key FROM keys WHERE workspace_id = %s AND subject = %s",
            (workspace_id, subject),
        )
        return bytes(rows[0][0]) if rows else None

    def add(self, workspace_id: WorkspaceId, subject: str, key: bytes) -> None:
        self._execute(
            "INSERT INTO keys VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1",
            (workspace_id, subject, key),
        )

    def _execute(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """Run a statement that may be run twice, once more if the connection was lost."""
        with self._lock:
            try:
                return self._once(statement, values)
            except psycopg.OperationalError:
                self._connection = None
                try:
                    return self._once(statement, values)
                except psycopg.OperationalError as error:
                    self._connection = None
                    raise unavailable(error) from error

    def _once(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = BoundedThreadConnection.connect(self._url, **CONNECTING)
        return self._connection.execute(statement.encode(), values).fetchall()
