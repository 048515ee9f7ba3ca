"""The real servers that tests run against: they answer, and keep what they acknowledged."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeout

from tests.servers.fixtures import Private
from tests.servers.postgres import majors
from tests.servers.proxy import Proxy
from tests.servers.server import until
from tests.servers.supervise import processes

ROOT = Path(__file__).resolve().parents[2]
WAIT_MAX_S = 60


def _sent(bootstrap: str, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    producer.send(topic, value).get(WAIT_MAX_S)
    producer.close()


def _received(bootstrap: str, topic: str) -> bytes:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=WAIT_MAX_S * 1000,
    )
    try:
        return bytes(next(consumer).value)
    finally:
        consumer.close()


def _note(url: str, text: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (text text)")
        connection.execute("INSERT INTO notes VALUES (%s)", [text])


def _notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes")]


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(urlsplit(postgres_url).port or 0) as proxy:
        yield proxy


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_a_database_of_its_own(postgres_url: str, round_: int) -> None:
    _note(postgres_url, f"round {round_}")
    assert _notes(postgres_url) == [f"round {round_}"]


@pytest.mark.parametrize("major", majors())
def test_a_killed_postgresql_comes_back_with_what_it_acknowledged(
    private_postgres: Private, major: int
) -> None:
    server = private_postgres(major=major)
    _note(server.url, "acknowledged")
    server.kill()
    with pytest.raises(psycopg.OperationalError):
        _notes(server.url)
    server.start()
    assert _notes(server.url) == ["acknowledged"]
    assert server.version.startswith(f"postgresql {major}.")


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_server_ends_with_the_process_it_was_started_for(kind: str) -> None:
    begin = (
        f"from tests.servers.{kind} import {kind}\n"
        f"server = {kind}().start()\n"
        "print(server.pid, server.folder, flush=True)\n"
        "input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", begin], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().decode().split()
        below = processes(int(pid))
        owner.kill()
    until(
        lambda: not any(psutil.pid_exists(process) for process in below),
        lambda: f"of {below} some run on",
    )
    until(lambda: not Path(folder).exists(), lambda: f"{folder} is left")


def test_a_paused_server_hangs_until_it_is_resumed(private_redis: Private) -> None:
    server = private_redis()
    with Redis.from_url(server.url) as client:
        client.set("key", "before")
        server.pause()
        with (
            Redis.from_url(server.url, socket_timeout=0.2, retry=None) as impatient,
            pytest.raises(RedisTimeout),
        ):
            impatient.get("key")
        server.resume()
        assert client.get("key") == b"before"


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_an_empty_redis(redis_url: str, round_: int) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.incr("rounds") == 1


def test_a_killed_redis_comes_back_with_what_it_acknowledged(private_redis: Private) -> None:
    server = private_redis()
    with Redis.from_url(server.url) as client:
        client.set("key", "acknowledged")
    server.kill()
    server.start()
    with Redis.from_url(server.url) as client:
        assert client.get("key") == b"acknowledged"


def test_kafka_hands_on_what_was_sent(kafka_bootstrap: str, kafka_topic: str) -> None:
    _sent(kafka_bootstrap, kafka_topic, b"sent")
    assert _received(kafka_bootstrap, kafka_topic) == b"sent"


def test_a_killed_kafka_comes_back_with_what_it_acknowledged(
    private_kafka: Private, kafka_topic: str
) -> None:
    server = private_kafka()
    _sent(server.url, kafka_topic, b"acknowledged")
    server.kill()
    server.start()
    assert _received(server.url, kafka_topic) == b"acknowledged"


def test_a_connection_cut_at_commit_has_committed(proxy: Proxy, postgres_url: str) -> None:
    url = proxy.url(postgres_url)
    _note(url, "before")
    proxy.cut_after(lambda sent: b"COMMIT" in sent)
    with pytest.raises(psycopg.OperationalError):
        _note(url, "cut")
    assert proxy.cuts == 1
    assert _notes(url) == ["before", "cut"]


def test_a_network_that_refuses_breaks_what_is_open_until_it_is_restored(
    proxy: Proxy, postgres_url: str
) -> None:
    url = proxy.url(postgres_url)
    with psycopg.connect(url) as connection:
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        _notes(url)
    proxy.restore()
    _note(url, "after")
    assert _notes(postgres_url) == ["after"]


@pytest.mark.parametrize(
    "disturb", [Proxy.drop_answers, lambda proxy: proxy.delay(WAIT_MAX_S)], ids=["drop", "delay"]
)
def test_a_client_that_gets_no_answer_was_heard_all_the_same(
    redis_url: str, disturb: Callable[[Proxy], None]
) -> None:
    with (
        Proxy(urlsplit(redis_url).port or 0) as proxy,
        Redis.from_url(proxy.url(redis_url), socket_timeout=2, retry=None) as impatient,
        Redis.from_url(redis_url) as direct,
    ):
        impatient.ping()
        disturb(proxy)
        with pytest.raises(RedisTimeout):
            impatient.set("key", "heard")
        assert direct.get("key") == b"heard"
        proxy.restore()
        assert impatient.get("key") == b"heard"
