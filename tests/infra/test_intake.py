"""Records as a misbehaving topic brings them: repeated, swapped, left out, damaged."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.events import WorkspaceId
from infra.event_store.codec import Codec, Stored
from infra.event_store.lane import Append
from infra.event_store.memory import MemoryLog
from infra.intake import Intake, LogRewound
from infra.kafka.records import Received, about, partition_of
from infra.projecting import Applier, Slice
from infra.vault import Vault
from tests.projecting import Diary, hashes, history, in_file, new_rows
from tests.projections.tables import PROJECTORS

PARTITIONS = 3
ROWS = new_rows(history(60))


def arrivals(rows: Sequence[Stored]) -> list[Received]:
    """Give the records that a relay would have published."""
    last: defaultdict[int, int] = defaultdict(int)
    found: list[Received] = []
    for row in rows:
        workspace_id = WorkspaceId(about(row).metadata.workspace_id)
        partition = partition_of(workspace_id, PARTITIONS)
        found.append(Received(partition, last[partition], row, workspace_id))
        last[partition] = row.global_position
    return found


async def filled() -> MemoryLog:
    log = MemoryLog()
    await asyncio.to_thread(log.write, Append(ROWS))
    return log


def damaged(arrival: Received) -> Received:
    return arrival._replace(stored=arrival.stored._replace(body=b"\xff"))


@st.composite
def misbehaviours(draw: st.DrawFn) -> list[tuple[int, bool]]:
    """Give the indexes of records in the order in which they come, and which come damaged."""
    indexes = range(len(ROWS))
    kept = draw(st.lists(st.sampled_from(indexes), max_size=80))
    order = draw(st.sampled_from(["as drawn", "sorted"]))
    broken = draw(st.frozensets(st.sampled_from(indexes), max_size=5))
    chosen = sorted(kept) if order == "sorted" else kept
    return [(index, index in broken) for index in chosen]


async def taken_in(folder: Path, coming: list[tuple[int, bool]]) -> dict[str, str]:
    log, engine = await filled(), in_file(folder)
    sent = arrivals(await log.all(after=0, limit=len(ROWS)))
    intake = Intake(log, Codec(Vault()), Applier(engine, PROJECTORS), PARTITIONS)
    for partition in range(PARTITIONS):
        await intake.begin(partition)
    for index, broken in coming:
        arrival = sent[index]
        await intake.take_in(arrival.partition, [damaged(arrival) if broken else arrival])
    await intake.catch_up(range(PARTITIONS), await log.head())
    intake.close()
    log.close()
    found = hashes(engine)
    engine.dispose()
    return found


async def straight(folder: Path) -> dict[str, str]:
    return await taken_in(folder, [(index, False) for index in range(len(ROWS))])


@settings(max_examples=30)
@given(coming=misbehaviours())
def test_however_records_come_the_rows_are_those_of_the_log(coming: list[tuple[int, bool]]) -> None:
    with TemporaryDirectory() as folder:
        expected = asyncio.run(straight(Path(folder)))
        assert asyncio.run(taken_in(Path(folder), coming)) == expected


async def test_a_record_that_is_missing_is_read_from_the_log_at_once(tmp_path: Path) -> None:
    log, engine = await filled(), in_file(tmp_path)
    sent = [a for a in arrivals(await log.all(after=0, limit=60)) if a.partition == 1]
    intake = Intake(log, Codec(Vault()), Applier(engine, [Diary()]), PARTITIONS)
    await intake.begin(1)
    await intake.take_in(1, sent[4:5])
    assert intake.places[1].done == sent[4].stored.global_position
    with engine.begin() as connection:
        noted = connection.execute(Diary.table.select()).all()
    assert len(noted) == 5
    intake.close()
    log.close()
    engine.dispose()


async def test_records_of_a_partition_that_is_not_held_are_ignored(tmp_path: Path) -> None:
    log, engine = await filled(), in_file(tmp_path)
    intake = Intake(log, Codec(Vault()), Applier(engine, [Diary()]), PARTITIONS)
    await intake.begin(0)
    for arrival in arrivals(await log.all(after=0, limit=60)):
        await intake.take_in(arrival.partition, [arrival])
    with engine.begin() as connection:
        noted = connection.execute(Diary.table.select()).mappings().all()
    assert {partition_of(row["workspace_id"], PARTITIONS) for row in noted} == {0}
    intake.close()
    log.close()
    engine.dispose()


async def test_a_log_that_ends_before_what_was_projected_is_refused(tmp_path: Path) -> None:
    log, engine = await filled(), in_file(tmp_path)
    Applier(engine, [Diary()]).apply(Slice([], 1, upto=61))
    intake = Intake(log, Codec(Vault()), Applier(engine, [Diary()]), PARTITIONS)
    with pytest.raises(LogRewound):
        await intake.begin(1)
    intake.close()
    log.close()
    engine.dispose()
