"""`automatos relay`."""

import asyncio
import signal
from contextlib import suppress

import psycopg
import structlog

from infra.event_store.postgres import PostgresLog
from infra.kafka.relay import Relay
from infra.kafka.topic import Topic, TopicDiffers
from infra.postgres.heartbeats import ALIVE_WITHIN_S, Heartbeats, instance_name
from infra.postgres.leases import open_pool
from infra.postgres.migrations import SchemaIsNewer, SchemaIsOld, check_schema
from infra.settings import Settings

PROCESS = "relay"
EXIT_REFUSED = 2
STOP_WITHIN_S = 25.0
"""What is sent is acknowledged and saved within; the rest is sent by whoever comes next."""

log = structlog.get_logger(__name__)


def relay(settings: Settings) -> int:
    """Copy the log to Kafka until SIGTERM; give the exit code."""
    try:
        _check(settings)
        asyncio.run(_relay(settings))
    except (SchemaIsNewer, SchemaIsOld, TopicDiffers) as error:
        log.critical("the relay refuses to go on", reason=str(error))
        return EXIT_REFUSED
    return 0


def _check(settings: Settings) -> None:
    """Refuse what no waiting mends; a database that is away is waited for later."""
    with suppress(psycopg.OperationalError):
        check_schema(settings.database_url)


async def _relay(settings: Settings) -> None:
    topic = Topic(settings.kafka_bootstrap_servers, settings.kafka_topic, settings.kafka_partitions)
    instance = instance_name()
    rows = PostgresLog(settings.database_url)
    async with open_pool(settings.database_url) as pool:
        relaying = Relay(rows, pool, topic, instance=instance)
        beating = asyncio.create_task(Heartbeats(pool).run(PROCESS, instance))
        try:
            await _until_stopped(relaying)
        finally:
            beating.cancel()
            await rows.close()


async def _until_stopped(relaying: Relay) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    running, stopping = asyncio.create_task(relaying.run()), asyncio.create_task(stopped.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    relaying.stop()
    await asyncio.wait({running}, timeout=STOP_WITHIN_S)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def healthy(settings: Settings, process: str) -> int:
    """Tell by the exit code whether this host's process of a kind has shown itself lately."""
    return 0 if asyncio.run(_is_seen(settings, process)) else 1


async def _is_seen(settings: Settings, process: str) -> bool:
    async with open_pool(settings.database_url, connections_max=1) as pool:
        seen = await Heartbeats(pool).seen_here(process)
    return seen is not None and seen < ALIVE_WITHIN_S
