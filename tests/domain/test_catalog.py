"""What is stored for ever: a change here is a migration, never a renaming."""

from typing import get_args

import msgspec
import pytest
from hypothesis import given

from domain.catalog import EVENT_TYPES, AnyEvent
from domain.events import Event, Personal
from tests.strategies import any_event

STORED_NAMES = {
    "AgentActivated": "agent_activated",
    "AgentArchived": "agent_archived",
    "AgentChanged": "agent_changed",
    "AgentDeactivated": "agent_deactivated",
    "AgentModelConfigured": "agent_model_configured",
    "AgentRolledBack": "agent_rolled_back",
    "AgentRegistered": "agent_registered",
    "AgentTagged": "agent_tagged",
    "ApiKeyCreated": "api_key_created",
    "ApiKeyRevoked": "api_key_revoked",
    "InstallationOpened": "installation_opened",
    "ModelCallCompleted": "model_call_completed",
    "ModelCallFailed": "model_call_failed",
    "ModelCallInDoubt": "model_call_in_doubt",
    "ModelCallRequested": "model_call_requested",
    "NameClaimed": "name_claimed",
    "NameReleased": "name_released",
    "ParkedEventSkipped": "parked_event_skipped",
    "ParkedSliceRetried": "parked_slice_retried",
    "RunCancelled": "run_cancelled",
    "RunCompleted": "run_completed",
    "RunFailed": "run_failed",
    "RunStarted": "run_started",
    "StepFailed": "run_step_failed",
    "StepSkipped": "run_step_skipped",
    "StepStarted": "run_step_started",
    "StepSucceeded": "run_step_succeeded",
    "WorkflowArchived": "workflow_archived",
    "WorkflowChanged": "workflow_changed",
    "WorkflowDrafted": "workflow_drafted",
    "WorkflowPublished": "workflow_published",
    "WorkflowStepsChanged": "workflow_steps_changed",
    "WorkflowWithdrawn": "workflow_withdrawn",
    "WorkspaceCreated": "workspace_created",
    "ApiKeyExpirySet": "api_key_expiry_set",
    "ApiKeyUsed": "api_key_used",
    "UserRegistered": "user_registered",
    "WorkspaceRenamed": "workspace_renamed",
    "MemberAdded": "member_added",
    "MemberRoleChanged": "member_role_changed",
    "MemberRemoved": "member_removed",
    "InvitationSent": "invitation_sent",
    "InvitationAccepted": "invitation_accepted",
    "InvitationRevoked": "invitation_revoked",
    "SecretSettingChanged": "secret_setting_changed",
    "SettingChanged": "setting_changed",
    "SettingDefined": "setting_defined",
    "SettingDescribed": "setting_described",
    "SettingRemoved": "setting_removed",
    "SettingReset": "setting_reset",
}


def test_stored_names_change_only_on_purpose() -> None:
    assert {event.__name__: event.tag() for event in get_args(AnyEvent)} == STORED_NAMES


def test_every_event_there_is_can_be_read_back() -> None:
    """An event left out of the catalog would fail on its first read."""
    ours = {event for event in Event.__subclasses__() if event.__module__.startswith("domain.")}
    assert ours == set(EVENT_TYPES.values())


def test_every_event_is_in_its_first_version() -> None:
    """A higher one needs an upcaster, and a test of it."""
    assert {event.schema_version for event in EVENT_TYPES.values()} == {1}


@pytest.mark.parametrize("event", EVENT_TYPES.values(), ids=EVENT_TYPES.keys())
def test_personal_data_has_a_subject_whose_key_seals_it(event: type[Event]) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(event)}
    personal = [name for name, held in fields.items() if held == Personal[str]]
    assert bool(personal) == bool(event.subject_field)
    assert event.subject_field in {"", *fields}


@given(any_event())
def test_an_event_survives_the_wire(event: AnyEvent) -> None:
    assert msgspec.json.decode(msgspec.json.encode(event), type=AnyEvent) == event
