"""The event that is appended: the same twelve fields on both sides, about 600 bytes as stored."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.domain import DomainEvent

from domain.events import CommandId, Event, Metadata, WorkspaceId
from infra.ids import new_uuid

WORKSPACE = WorkspaceId("01980000-0000-7000-8000-000000000001")


class StepMeasured(Event, frozen=True, kw_only=True, tag="step_measured"):
    """Known to this benchmark only."""

    run_id: int
    step: int
    attempt: int
    worker: str
    provider: str
    model: str
    response_id: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    latency_ms: int
    note: str


class TheirStepMeasured(DomainEvent):
    run_id: int
    step: int
    attempt: int
    worker: str
    provider: str
    model: str
    response_id: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    latency_ms: int
    note: str


OURS = StepMeasured(
    run_id=7_340_112_955_021_313,
    step=3,
    attempt=1,
    worker="0199a3c2-7a51-7c3e-9d0c-2f1f0c6d7e11",
    provider="anthropic",
    model="claude-haiku-5-5",
    response_id="msg_01XFDUDYJgAACzvnptvVoYEL",
    finish_reason="end_turn",
    tokens_in=1_874,
    tokens_out=412,
    latency_ms=2_318,
    note="The likeliest cause is the connection pool, cut from 50 to 5 at 14:02. ",
)
FIELDS: dict[str, Any] = msgspec.structs.asdict(OURS)


def metadata() -> Metadata:
    return Metadata(
        workspace_id=WORKSPACE,
        actor="key:Zk3v9QmX2b",
        correlation_id="5f0f3a9c71d2",
        command_id=CommandId(new_uuid()),
        occurred_at=datetime.now(UTC),
    )


def theirs(originator_id: UUID, version: int) -> TheirStepMeasured:
    return TheirStepMeasured(
        originator_id=originator_id,
        originator_version=version,
        timestamp=DomainEvent.create_timestamp(),
        **FIELDS,
    )
