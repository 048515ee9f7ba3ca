"""`automatos relay`."""

import asyncio
from contextlib import suppress

import psycopg
import structlog

from infra.event_store.postgres import PostgresLog
from infra.intake import LogRewound
from infra.kafka.relay import Relay
from infra.kafka.topic import TopicDiffers, topic_of
from infra.postgres.heartbeats import ALIVE_WITHIN_S, Heartbeats, instance_name
from infra.postgres.leases import open_pool
from infra.postgres.migrations import SchemaIsNewer, SchemaIsOld, check_schema
from infra.settings import Settings
from infra.until_stopped import on_signals, until_stopped

PROCESS = "relay"
EXIT_REFUSED = 2

log = structlog.get_logger(__name__)


def relay(settings: Settings) -> int:
    """Copy the log to Kafka until SIGTERM; give the exit code."""
    try:
        _check(settings)
        asyncio.run(_relay(settings))
    except (LogRewound, SchemaIsNewer, SchemaIsOld, TopicDiffers) as error:
        log.critical("the relay refuses to go on", reason=str(error))
        return EXIT_REFUSED
    return 0


def _check(settings: Settings) -> None:
    """Refuse what no waiting mends; a database that is away is waited for later."""
    with suppress(psycopg.OperationalError):
        check_schema(settings.database_url)


async def _relay(settings: Settings) -> None:
    topic = topic_of(settings)
    instance = instance_name()
    rows = PostgresLog(settings.database_url)
    async with open_pool(settings.database_url) as pool:
        relaying = Relay(rows, pool, topic, instance=instance)
        try:
            await until_stopped(on_signals(), relaying, Heartbeats(pool).run(PROCESS, instance))
        finally:
            await rows.close()


def healthy(settings: Settings, process: str) -> int:
    """Tell by the exit code whether this host's process of a kind has shown itself lately."""
    return 0 if asyncio.run(_is_seen(settings, process)) else 1


async def _is_seen(settings: Settings, process: str) -> bool:
    async with open_pool(settings.database_url, connections_max=1) as pool:
        seen = await Heartbeats(pool).seen_here(process)
    return seen is not None and seen < ALIVE_WITHIN_S
