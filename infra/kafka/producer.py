"""The two clients of kafka-python that talk to a broker here, and what they raise.

Everything blocks: call it in a thread.
"""

from typing import Any, Protocol, cast

from kafka import KafkaAdminClient, KafkaProducer  # type: ignore[import-untyped]

from infra.kafka.access import OPEN, Access, explained
from infra.kafka.records import Headers

RECORD_BYTES_MAX = 16 * 1024 * 1024
"""Of one event with its headers: more than the largest body of a request."""

ANSWER_WITHIN_S = 10
"""One request to a broker; then it is sent again."""

ACK_WITHIN_S = 10.0
"""How long records may wait for their acknowledgement; then the producer is dropped."""

DELIVER_WITHIN_S = 60
"""When the producer itself gives a record up. Later than `ACK_WITHIN_S` on purpose: one that has
given a record up goes on with those behind it, which would turn the order around."""

BOOTSTRAP_WITHIN_S = 5
LINGER_MS = 5
BATCH_BYTES_MAX = 256 * 1024
METADATA_AGE_S = 5
"""How soon a change of the topic is noticed."""


class Ack(Protocol):
    """What becomes of one record."""

    def get(self, timeout: float) -> object: ...


class Producer(Protocol):
    """What the relay needs of a producer."""

    def send(
        self, topic: str, value: bytes, *, key: bytes, headers: Headers, partition: int
    ) -> Ack: ...
    def partitions_for(self, topic: str) -> set[int] | None: ...
    def drop(self) -> None: ...


class _Producer(KafkaProducer):  # type: ignore[misc]
    _sender: Any
    _metadata: Any

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        # kafka-python 3.0 takes this setting and does not hand it on: asking for a deleted topic
        # would make it anew, with the broker's number of partitions instead of ours.
        self._metadata.config["allow_auto_create_topics"] = False

    def drop(self) -> None:
        """Give up what is not acknowledged, and end the producer's thread.

        `close(0)` does neither in kafka-python 3.0: its flush raises while records wait.
        """
        self._sender.force_close()
        self.close(timeout=BOOTSTRAP_WITHIN_S)


_CONNECTING: dict[str, Any] = {
    "bootstrap_timeout_ms": BOOTSTRAP_WITHIN_S * 1_000,
    "request_timeout_ms": ANSWER_WITHIN_S * 1_000,
    "reconnect_backoff_max_ms": 1_000,
}
_PRODUCING: dict[str, Any] = _CONNECTING | {
    "acks": "all",
    "enable_idempotence": True,
    "max_in_flight_requests_per_connection": 5,
    "linger_ms": LINGER_MS,
    "batch_size": BATCH_BYTES_MAX,
    "max_request_size": RECORD_BYTES_MAX,
    "max_block_ms": BOOTSTRAP_WITHIN_S * 1_000,
    "delivery_timeout_ms": DELIVER_WITHIN_S * 1_000,
    "metadata_max_age_ms": METADATA_AGE_S * 1_000,
    "metrics_enabled": False,
}


def open_producer(servers: str, access: Access = OPEN) -> Producer:
    """Connect.

    Raises:
        NoBrokerAnswers: Or none lets us in.
    """
    with explained():
        made = _Producer(bootstrap_servers=servers.split(","), **_PRODUCING, **access.connecting)
    return cast("Producer", made)


class Admin(Protocol):
    """The part of `KafkaAdminClient` that is used here."""

    def describe_topics(self, topics: list[str]) -> list[dict[str, object]]: ...
    def describe_cluster(self) -> dict[str, list[object]]: ...
    def create_topics(
        self, new_topics: dict[str, dict[str, object]], *, wait_for_metadata: bool
    ) -> object: ...
    def close(self) -> None: ...


def open_admin(servers: str, access: Access = OPEN) -> Admin:
    """Connect.

    Raises:
        NoBrokerAnswers: Or none lets us in.
    """
    with explained():
        made = KafkaAdminClient(
            bootstrap_servers=servers.split(","), **_CONNECTING, **access.connecting
        )
    return cast("Admin", made)
