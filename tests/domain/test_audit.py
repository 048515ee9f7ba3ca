"""What operators do to read models leaves a trail, and leaving an event out needs a reason."""

from domain.audit import (
    AUDIT,
    ParkedEventSkipped,
    ParkedSliceRetried,
    retry_slice,
    skip_event,
)
from domain.errors import Invalid
from tests.given import given

RETRIED = ParkedSliceRetried(projector="usage", position=7)


def test_a_retry_is_noted_as_often_as_it_is_tried() -> None:
    decided = given(AUDIT, RETRIED).when(retry_slice, projector="usage", position=7)
    decided.then(RETRIED)


def test_a_skipped_event_is_noted_with_the_reason() -> None:
    decided = given(AUDIT).when(skip_event, projector="usage", position=7, reason=" bad row ")
    decided.then(ParkedEventSkipped(projector="usage", position=7, reason="bad row"))


def test_no_event_is_skipped_without_a_reason() -> None:
    decided = given(AUDIT).when(skip_event, projector="usage", position=7, reason="  ")
    decided.then_refused(Invalid, pointer="/reason")
