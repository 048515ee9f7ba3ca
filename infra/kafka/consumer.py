"""Records of the topic, for partitions that are somebody's by lease: no consumer groups.

Where to begin in a partition is a guess by time, and offsets are kept nowhere: whoever takes the
records in looks at their positions alone, so that a wrong guess costs time and nothing else.
Everything blocks: call it in one thread of its own.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

import structlog
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from infra.kafka.access import explained
from infra.kafka.producer import RECORD_BYTES_MAX
from infra.kafka.records import MalformedRecord, Received, received
from infra.kafka.topic import Topic, differs

POLL_S = 0.2
FETCH_WAIT_MS = 20
RECORDS_MAX = 1_000
ANSWER_WITHIN_S = 5
CLOCKS_DIFFER_S = 60
"""How far the clocks of whoever records and whoever publishes may be apart."""

CONNECTING: dict[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "fetch_max_wait_ms": FETCH_WAIT_MS,
    "max_poll_records": RECORDS_MAX,
    "max_partition_fetch_bytes": RECORD_BYTES_MAX,
    "bootstrap_timeout_ms": ANSWER_WITHIN_S * 1_000,
    "request_timeout_ms": 2 * ANSWER_WITHIN_S * 1_000,
    "reconnect_backoff_max_ms": 1_000,
    "metadata_max_age_ms": 10_000,
    "metrics_enabled": False,
}

log = structlog.get_logger(__name__)


class _Consumer(Protocol):
    """The part of `KafkaConsumer` that is used here."""

    def assign(self, partitions: list[Any]) -> None: ...
    def seek(self, partition: object, offset: int) -> None: ...
    def poll(self, timeout_ms: int) -> dict[Any, list[Any]]: ...
    def partitions_for_topic(self, topic: str) -> set[int] | None: ...
    def offsets_for_times(self, timestamps: dict[Any, int], timeout_ms: int) -> dict[Any, Any]: ...
    def beginning_offsets(self, partitions: list[Any], timeout_ms: int) -> dict[Any, int]: ...
    def end_offsets(self, partitions: list[Any], timeout_ms: int) -> dict[Any, int]: ...
    def close(self) -> None: ...


class _Quiet(KafkaConsumer):  # type: ignore[misc]
    _cluster: Any

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        # kafka-python 3.0 takes this setting and does not hand it on; see `infra.kafka.producer`.
        self._cluster.config["allow_auto_create_topics"] = False


class TopicIsMissing(KafkaError):  # type: ignore[misc]
    """There is no such topic now; the relay makes it again."""


class Feed:
    """Connects when first asked; after any fault, anew."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._consumer: _Consumer | None = None
        self._assigned: frozenset[int] = frozenset()

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._assigned = frozenset()
        if consumer is not None:
            consumer.close()

    def poll(self, wanted: Mapping[int, datetime | None]) -> dict[int, list[Received]]:
        """Give what has arrived in some partitions.

        Args:
            wanted: Per partition when the last event happened that is known of it.

        Raises:
            TopicDiffers: The topic has not the partitions that it was made with.
            KafkaError: No broker answers, or none has the topic.
        """
        try:
            consumer = self._connected()
            if self._assigned != frozenset(wanted):
                self._assign(consumer, wanted)
            return self._records(consumer)
        except (KafkaError, ValueError, AssertionError, OSError):
            self.close()
            raise

    def _connected(self) -> _Consumer:
        if self._consumer is None:
            servers, access = self._topic.servers.split(","), self._topic.access
            with explained():
                made = _Quiet(bootstrap_servers=servers, **CONNECTING, **access.connecting)
            self._consumer = cast("_Consumer", made)
        return self._consumer

    def _assign(self, consumer: _Consumer, wanted: Mapping[int, datetime | None]) -> None:
        name, partitions = self._topic.name, self._topic.partitions
        known = consumer.partitions_for_topic(name)
        if not known:
            raise TopicIsMissing(name)
        if len(known) != partitions:
            raise differs(name, partitions, f"the broker has {len(known)}")
        consumer.assign([self._place(n) for n in wanted])
        new = {n: at for n, at in wanted.items() if n not in self._assigned}
        for place, offset in self._beginnings(consumer, new).items():
            consumer.seek(place, offset)
        self._assigned = frozenset(wanted)

    def _beginnings(
        self, consumer: _Consumer, new: Mapping[int, datetime | None]
    ) -> dict[Any, int]:
        """Guess the offsets of what happened after some moments; none later than they are."""
        places = {self._place(n): at for n, at in new.items()}
        times = {place: _millis(at) for place, at in places.items() if at is not None}
        answer_ms = ANSWER_WITHIN_S * 1_000
        found = consumer.beginning_offsets(list(places), answer_ms) if places else {}
        if times:
            ends = consumer.end_offsets(list(times), answer_ms)
            after = consumer.offsets_for_times(dict(times), answer_ms)
            for place in times:
                found[place] = after[place].offset if after.get(place) else ends[place]
        return found

    def _place(self, partition: int) -> Any:  # noqa: ANN401 an untyped library's
        return cast("Any", TopicPartition(self._topic.name, partition))

    def _records(self, consumer: _Consumer) -> dict[int, list[Received]]:
        try:
            polled = consumer.poll(int(POLL_S * 1_000))
        except (OffsetOutOfRangeError, NoOffsetForPartitionError):
            # Retention, or the topic was made again: what is missing is read from the log.
            places = [self._place(n) for n in self._assigned]
            for place, offset in consumer.beginning_offsets(
                places, ANSWER_WITHIN_S * 1_000
            ).items():
                consumer.seek(place, offset)
            return {}
        return {place.partition: list(_sound(records)) for place, records in polled.items()}


def _sound(records: list[Any]) -> list[Received]:
    found: list[Received] = []
    for each in records:
        try:
            found.append(received(each.partition, each.key, each.value, each.headers))
        except MalformedRecord as error:
            log.warning(
                "a record that is not the relay's is passed over",
                partition=each.partition,
                offset=each.offset,
                reason=str(error),
            )
    return found


def _millis(at: datetime) -> int:
    return max(0, int((at - timedelta(seconds=CLOCKS_DIFFER_S)).timestamp() * 1_000))
