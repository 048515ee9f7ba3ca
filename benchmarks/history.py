"""A log as long as wanted: agents registered, and each one tagged a while later."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from benchmarks.events import WORKSPACE, metadata
from domain.agents import AGENT, AgentEvent, AgentId, AgentProfile, AgentRegistered, AgentTagged
from infra.event_store.codec import Codec
from infra.event_store.lane import Append, NewRow
from infra.event_store.sqlite import SqliteLog
from infra.ids import new_uuid
from infra.vault import Vault

LATER = 2_000
"""Agents registered before the first of them is tagged: it is not in the same page."""

BATCH = 1_000
PROMPT = "Name the likeliest cause and the evidence for it. " * 6


class _Fact(NamedTuple):
    agent_id: AgentId
    version: int
    event: AgentEvent


def write(log: SqliteLog, vault: Vault, count: int) -> None:
    """Append so many events, a thousand in one transaction."""
    rows = new_rows(vault, count)
    while page := list(islice(rows, BATCH)):
        log.write(Append(page))


def new_rows(vault: Vault, count: int) -> Iterator[NewRow]:
    codec = Codec(vault)
    return (_row(codec, fact) for fact in islice(_facts(), count))


def write_file(folder: Path, count: int) -> None:
    log, vault = SqliteLog(folder / "events.db"), Vault(folder / "keys.db")
    write(log, vault, count)
    log.close()
    vault.close()


def _facts() -> Iterator[_Fact]:
    agent_id = 0
    while True:
        agent_id += 1
        profile = AgentProfile(
            name=f"agent-{agent_id:012}",
            description="Finds the likeliest cause of an incident",
            tags=("incident", "cause"),
            system_prompt=PROMPT,
        )
        registered = AgentRegistered(agent_id=AgentId(agent_id), profile=profile)
        yield _Fact(AgentId(agent_id), 1, registered)
        old = AgentId(agent_id - LATER)
        if old > 0:
            yield _Fact(old, 2, AgentTagged(agent_id=old, tags=("incident", "retired")))


def _row(codec: Codec, fact: _Fact) -> NewRow:
    body = codec.encode(fact.event, new_uuid(), metadata())
    stream_id = AGENT.stream_id(WORKSPACE, fact.agent_id)
    return NewRow(stream_id, fact.version, fact.event.tag(), body, WORKSPACE)
