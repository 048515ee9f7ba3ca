"""The real servers that tests run against: they answer, and keep what they acknowledged."""

from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]

from tests.servers.fixtures import Private

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
