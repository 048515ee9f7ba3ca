"""Whether the topic holds what the log does not: then PostgreSQL has lost its tail.

After a failover to a standby that had not got everything, or from an older backup, the log gives
the positions of lost events to others. Records of both would be taken for one and the same.
"""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from time import monotonic
from typing import Any

from kafka.errors import KafkaTimeoutError  # type: ignore[import-untyped]

from infra.event_store.store import Log
from infra.intake import LogRewound
from infra.kafka.consumer import ANSWER_WITHIN_S, POLL_S, Feed
from infra.kafka.records import MalformedRecord, Received, received
from infra.kafka.topic import Topic

LOOK_BACK = 100
"""Records looked at in each partition: a stopped relay may have repeated older ones at its end."""

READ_WITHIN_S = 30.0


async def refuse_fork(rows: Log, topic: Topic) -> None:
    """See that the newest records of the topic are of this log.

    Raises:
        LogRewound: One is not.
        KafkaError: No broker answers.
    """
    for record in await asyncio.to_thread(_newest, topic):
        position = record.stored.global_position
        if await rows.all(after=position - 1, limit=1) != [record.stored]:
            raise LogRewound(f"LOG_REWOUND: Kafka has an event at {position} that the log has not.")


def _newest(topic: Topic) -> list[Received]:
    with closing(_Ends(topic)) as ends:
        return ends.newest()


class _Ends(Feed):
    def newest(self) -> list[Received]:
        """Give the record with the greatest position of each partition."""
        ends = self._go_back(LOOK_BACK)
        found: dict[int, Received] = {}
        for record in self._until(ends):
            known = found.get(record.partition)
            if known is None or known.stored.global_position < record.stored.global_position:
                found[record.partition] = record
        return list(found.values())

    def _go_back(self, records: int) -> dict[Any, int]:
        """Begin a little before the ends of the partitions; give those that hold anything."""
        consumer, answer_ms = self._connected(), ANSWER_WITHIN_S * 1_000
        known = consumer.partitions_for_topic(self._topic.name) or ()
        places = [self._place(n) for n in known]
        first = consumer.beginning_offsets(places, answer_ms)
        ends = consumer.end_offsets(places, answer_ms)
        filled = {place: ends[place] for place in places if first[place] < ends[place]}
        consumer.assign(list(filled))
        for place, end in filled.items():
            consumer.seek(place, max(first[place], end - records))
        return filled

    def _until(self, ends: dict[Any, int]) -> Iterator[Received]:
        consumer, left = self._connected(), dict(ends)
        deadline = monotonic() + READ_WITHIN_S
        while left:
            if monotonic() > deadline:
                raise KafkaTimeoutError("The newest records of the topic cannot be read.")
            for place, records in consumer.poll(int(POLL_S * 1_000)).items():
                yield from _sound(records)
                if records[-1].offset + 1 >= ends[place]:
                    left.pop(place, None)


def _sound(records: list[Any]) -> Iterator[Received]:
    for each in records:
        try:
            yield received(each.partition, each.key, each.value, each.headers)
        except MalformedRecord:
            # Somebody else's: the consumer tells of it.
            continue
