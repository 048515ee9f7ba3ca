"""Every event there is.

The store decodes against this union, so a tag used twice fails at import, and
an event missing from it fails on the first read.
"""

from typing import TypeAlias, get_args

from domain.agents import AgentEvent
from domain.audit import AuditEvent
from domain.claims import ClaimEvent
from domain.events import Event
from domain.identity import IdentityEvent
from domain.runs import RunEvent
from domain.settings import SettingsEvent
from domain.workflows import WorkflowEvent

AnyEvent: TypeAlias = (
    AgentEvent | AuditEvent | ClaimEvent | IdentityEvent | RunEvent | SettingsEvent | WorkflowEvent
)

EVENT_TYPES: dict[str, type[Event]] = {event.tag(): event for event in get_args(AnyEvent)}
"""By stored name."""
