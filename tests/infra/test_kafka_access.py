"""A broker that asks for a password over TLS lets us in with the right one, and says why not."""

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest
from kafka.errors import KafkaError, KafkaTimeoutError  # type: ignore[import-untyped]

from infra.kafka.access import OPEN, Access, NoBrokerAnswers, access_of, explained
from infra.kafka.consumer import Feed
from infra.kafka.producer import open_admin
from infra.kafka.records import Received
from infra.kafka.relay import Relay
from infra.kafka.topic import Topic, topic_of
from infra.postgres.leases import open_pool
from infra.postgres.migrations import migrate
from infra.settings import BadSettings, Settings
from tests.relaying import WAIT_MAX_S, Writer, opened
from tests.servers.certificate import certificate
from tests.servers.fixtures import begun
from tests.servers.kafka import guarded, kafka
from tests.servers.server import Server

TRIES_MAX = 5
USER, PASSWORD = "automatos", "right"
PARTITIONS = 2
ENV = {
    "KAFKA_BOOTSTRAP_SERVERS": "k:1",
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "ada",
    "KAFKA_SASL_PASSWORD": "secret",
    "KAFKA_SSL_CAFILE": "/ca.pem",
}
LOGIN = {
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_plain_username": "ada",
    "sasl_plain_password": "secret",
}


@pytest.mark.parametrize(
    ("protocol", "given"),
    [
        ("PLAINTEXT", {}),
        ("SSL", {"ssl_cafile": "/ca.pem"}),
        ("SASL_PLAINTEXT", LOGIN),
        ("SASL_SSL", {**LOGIN, "ssl_cafile": "/ca.pem"}),
    ],
)
def test_clients_are_given_what_their_protocol_needs(protocol: str, given: dict[str, str]) -> None:
    settings = Settings.from_env(ENV | {"KAFKA_SECURITY_PROTOCOL": protocol})
    topic = topic_of(settings)
    assert (topic.servers, topic.name, topic.partitions) == ("k:1", "automatos.events", 12)
    assert topic.access.connecting == {"security_protocol": protocol, **given}


def test_without_a_file_of_certificates_the_machine_s_are_trusted() -> None:
    assert Access("SSL").connecting["ssl_cafile"] is None


def test_nothing_is_asked_of_who_sets_nothing() -> None:
    assert access_of(Settings()) == OPEN
    assert OPEN.connecting == {"security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize("missing", ["KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"])
def test_a_password_that_is_asked_for_and_not_set_is_named(missing: str) -> None:
    settings = Settings.from_env({k: v for k, v in ENV.items() if k != missing})
    with pytest.raises(BadSettings, match="needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"):
        access_of(settings)


def test_a_password_is_spelled_nowhere() -> None:
    topic = topic_of(Settings.from_env(ENV))
    assert "secret" not in f"{topic} {topic.access!r}"


def test_why_no_broker_answers_is_told_once_each() -> None:
    logger = logging.getLogger("kafka.net.manager")

    def connect() -> None:
        for reason in ("wrong (a)", "gone", "gone"):
            logger.warning("Bootstrap connection to %s failed: %s (backoff 0.1 secs)", 1, reason)
        raise KafkaTimeoutError("no one")

    with pytest.raises(NoBrokerAnswers, match=r": no one; wrong \(a\); gone$"), explained():
        connect()
    assert logger.handlers == []


# A real broker.


@pytest.fixture(scope="module")
def cafile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ca") / "ca.pem"


@pytest.fixture(scope="module")
def broker(cafile: Path) -> Iterator[Server]:
    made = certificate()
    cafile.write_text(made.chain)
    settings = guarded(made, USER, PASSWORD)
    with begun(kafka, settings=settings, owners=[os.getpid()]) as started:
        yield started


async def test_who_knows_the_password_publishes_and_reads(
    postgres_url: str, broker: Server, cafile: Path
) -> None:
    migrate(postgres_url)
    access = Access("SASL_SSL", "PLAIN", USER, PASSWORD, str(cafile))
    topic = Topic(broker.bootstrap, f"test-{uuid4().hex}", PARTITIONS, access)
    async with opened(postgres_url) as log, open_pool(postgres_url) as pool:
        await Writer(log).write(1)
        relay = Relay(log, pool, topic, instance="one")
        running = asyncio.create_task(relay.run())
        positions = await asyncio.to_thread(read, topic, await log.head())
        relay.stop()
        await running
        assert positions == list(range(1, await log.head() + 1))


def read(topic: Topic, count: int) -> list[int]:
    feed, found = Feed(topic), list[Received]()
    deadline = monotonic() + WAIT_MAX_S
    while len(found) < count and monotonic() < deadline:
        try:
            arrived = feed.poll(dict.fromkeys(range(PARTITIONS)))
        except KafkaError:
            # The relay has not made the topic yet.
            continue
        found += [record for records in arrived.values() for record in records]
    feed.close()
    return sorted(record.stored.global_position for record in found)


def test_a_wrong_password_is_refused_with_the_broker_s_own_words(
    broker: Server, cafile: Path
) -> None:
    access = Access("SASL_SSL", "PLAIN", USER, "wrong", str(cafile))
    told: list[str] = []
    # A busy broker may be too slow to say so at the first try.
    while not any("Invalid username or password" in each for each in told):
        assert len(told) < TRIES_MAX, told
        with pytest.raises(NoBrokerAnswers) as refused:
            open_admin(broker.bootstrap, access)
        told.append(str(refused.value))
    assert "wrong" not in "".join(told)


def test_a_broker_with_a_certificate_of_nobody_we_trust_is_not_told_the_password(
    broker: Server,
) -> None:
    with pytest.raises(NoBrokerAnswers, match=r"(?i)certificate verify failed"):
        open_admin(broker.bootstrap, Access("SASL_SSL", "PLAIN", USER, PASSWORD))
