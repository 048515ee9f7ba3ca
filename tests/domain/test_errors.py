"""Refusals carry what their callers act on, and say it in a sentence."""

from domain import errors
from domain.errors import (
    AlreadyExists,
    DomainError,
    NameIsTaken,
    RunIsFinished,
    StreamConflict,
    TooLong,
    VersionMismatch,
)


def test_every_reason_has_a_code_of_its_own() -> None:
    reasons: list[type[DomainError]] = DomainError.__subclasses__()
    assert all(reason.__module__ == errors.__name__ for reason in reasons)
    assert len({reason.code for reason in reasons} - {DomainError.code}) == len(reasons)


def test_a_text_over_its_bound_is_pointed_at() -> None:
    refusal = TooLong("The input", size=9, size_max=8, pointer="/input_data")
    assert str(refusal) == "The input has 9 bytes; 8 are allowed."
    assert (refusal.pointer, refusal.size_max) == ("/input_data", 8)


def test_a_lost_race_names_the_stream_and_the_version_it_expected() -> None:
    refusal = StreamConflict("agent-acme+1", 4)
    assert str(refusal) == "Stream 'agent-acme+1' is no longer at version 4."
    assert (refusal.stream_id, refusal.expected_version) == ("agent-acme+1", 4)


def test_a_stale_version_is_told_the_newest_one() -> None:
    refusal = VersionMismatch(3, 5)
    assert str(refusal) == "You named version 3; the newest is 5."
    assert (refusal.expected_version, refusal.version) == (3, 5)


def test_a_taken_name_points_at_the_name() -> None:
    refusal = NameIsTaken("Agent", "Ada")
    assert str(refusal) == "Agent with this name already exists"
    assert (refusal.pointer, refusal.kind, refusal.name) == ("/name", "Agent", "Ada")


def test_other_refusals_say_what_they_are_about() -> None:
    assert str(AlreadyExists("agent", "1")) == "Agent with id '1' exists already."
    assert str(RunIsFinished(7, "failed")) == "Execution 7 has already failed."
