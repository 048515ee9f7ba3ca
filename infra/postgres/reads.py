"""Read models in PostgreSQL: rows of one workspace at a time, and the database sees to it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine

from domain.events import WorkspaceId
from infra.postgres.connections import CONNECTING, BoundedThreadConnection, sqlalchemy_url
from infra.postgres.migrations import EVERY_WORKSPACE, WORKSPACE_SETTING

P = ParamSpec("P")
T = TypeVar("T")

POOL_WAIT_S = 5.0


def open_engine(url: str, *, pool_size: int = 4) -> Engine:
    """Open the read models for those who serve every workspace: projectors, workers, key rings."""
    return _engine(url, EVERY_WORKSPACE, pool_size)


def _engine(url: str, workspace: str, pool_size: int) -> Engine:
    connecting: dict[str, Any] = {k: v for k, v in CONNECTING.items() if k != "autocommit"}
    connecting["options"] += f" -c {WORKSPACE_SETTING}={workspace}"
    return create_engine(
        sqlalchemy_url(url),
        creator=partial(BoundedThreadConnection.connect, url, **connecting),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_S,
        pool_pre_ping=True,
    )


class PostgresReads:
    """Implements `read_api.reads.Reads`, in threads: the driver's synchronous side is what
    SQLAlchemy Core runs fastest on.

    Args:
        pool_size: Queries at once; more wait their turn.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self._every = open_engine(url, pool_size=2)
        # Nothing is named by default: a query that forgets its workspace sees no row.
        self._one = _engine(url, "", pool_size)
        self._threads = ThreadPoolExecutor(pool_size, thread_name_prefix="reads")

    async def ask(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._run(partial(_asked, self._every, "", query, *args, **kwargs))

    async def ask_in(
        self,
        workspace_id: WorkspaceId,
        query: Callable[Concatenate[Connection, WorkspaceId, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if workspace_id in {"", EVERY_WORKSPACE}:
            raise ValueError(f"{workspace_id!r} names no workspace.")
        return await self._run(
            partial(_asked, self._one, workspace_id, query, workspace_id, *args, **kwargs)
        )

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        self._every.dispose()
        self._one.dispose()


def _asked(
    engine: Engine, workspace_id: str, query: Callable[..., T], *args: object, **kwargs: object
) -> T:
    with engine.begin() as connection:
        if workspace_id:
            connection.exec_driver_sql(
                "SELECT set_config(%s, %s, true)", (WORKSPACE_SETTING, workspace_id)
            )
        return query(connection, *args, **kwargs)
