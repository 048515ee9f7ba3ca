"""Events of every type, and histories of them.

Ids come from a handful, so that the events of one history speak of the same things.
"""

from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from domain.agents import AGENT, AgentEvent, AgentRegistered
from domain.audit import AUDIT, AuditEvent
from domain.catalog import EVENT_TYPES, AnyEvent
from domain.claims import CLAIM, ClaimEvent
from domain.events import CommandId, Event, Metadata, Recorded, StreamId, WorkspaceId
from domain.identity import KEY_RING, ApiKeyCreated, IdentityEvent
from domain.runs import RUN, RunEvent, RunStarted
from domain.settings import SETTINGS, SettingDefined, SettingsEvent
from domain.workflows import WORKFLOW, WorkflowDrafted, WorkflowEvent

S = TypeVar("S", bound=msgspec.Struct)

WORKSPACES = (WorkspaceId("acme"), WorkspaceId("globex"))
START = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
"""A minute before a new day, so that histories cross midnight."""

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
"""Without U+0000, which no read model keeps as it is; see `test_projector.py`."""

names = st.sampled_from(["Ada", "ada", "Straße", "50%_off", ""]) | texts
moments = st.integers(min_value=0, max_value=10**9).map(
    lambda us: START + timedelta(microseconds=us)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)
json_objects = st.dictionaries(st.sampled_from(["tags", "a", "b"]), json_values, max_size=2)
templates = st.sampled_from(["go", "{input.topic}", "{steps.a.output}", "{previous.output}", "{x}"])

_FEW: dict[str, st.SearchStrategy[Any]] = {
    "agent_id": st.integers(1, 3),
    "workflow_id": st.integers(1, 2),
    "run_id": st.integers(1, 2),
    "step": st.integers(0, 2),
    "attempt": st.integers(1, 4),
    "step_id": st.sampled_from(["a", "b", "c"]),
    "worker": st.sampled_from(["w1", "w2"]),
    "call_id": st.sampled_from(["c1", "c2", "c3"]),
    "repeats": st.sampled_from([None, "c1", "c2"]),
    "execution_id": st.sampled_from(["exec-1", "exec-2"]),
    "key_id": st.sampled_from(["k1", "k2"]),
    "workspace_id": st.sampled_from(WORKSPACES),
    "local_workspace_id": st.sampled_from(WORKSPACES),
    "holder": st.sampled_from(["1", "2"]),
    "kind": st.sampled_from(["Agent", "Workflow"]),
    "setting": st.sampled_from(["a.x", "a.y", "orchestrator_llm.llm_model"]),
    "category": st.sampled_from(["a"]),
    "key": st.sampled_from(["x", "y"]),
    "provider": st.sampled_from(["openai", "anthropic", "offline"]),
    "model_id": st.sampled_from(["small", "large"]),
    "prompt_template": templates,
    "name": names,
}
"""By the name of a field, where its type says too little."""


def made(struct: type[S], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[S]:
    """Build a struct with all of its fields; `st.builds` leaves out those with a default."""
    fields = {
        field.name: (fixed[field.name] if field.name in fixed else _field(field.name, field.type))
        for field in msgspec.structs.fields(struct)
    }
    return st.builds(struct, **fields)


def _field(name: str, annotation: Any) -> st.SearchStrategy[Any]:
    few = _FEW.get(name)
    if few is None:
        return _of(annotation)
    others = [a for a in get_args(annotation) if a in {NoneType, UnsetType}]
    return st.one_of(few, *(_of(other) for other in others))


_PLAIN: dict[object, st.SearchStrategy[Any]] = {
    str: texts,
    int: st.integers(0, 10**6),
    float: st.floats(0, 2),
    bool: st.booleans(),
    datetime: moments,
    NoneType: st.none(),
    UnsetType: st.just(UNSET),
}


def _of(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, NewType):
        return _of(annotation.__supertype__)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return made(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, UnionType}:
        return st.one_of(*(_of(argument) for argument in arguments))
    if origin is Annotated:
        return _of(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(_of(arguments[0]), max_size=3).map(tuple)
    assert origin is dict, f"no strategy for {annotation}"
    return json_objects


_BY_TAG: dict[str, st.SearchStrategy[Any]] = {tag: made(t) for tag, t in EVENT_TYPES.items()}


def any_event() -> st.SearchStrategy[AnyEvent]:
    """Give an event of any type there is."""
    return st.one_of(*_BY_TAG.values())


def events_of(*types: Any) -> st.SearchStrategy[Any]:
    """Give events of some types, or unions of types."""
    wanted = [event for each in types for event in get_args(each) or (each,)]
    return st.one_of(*(_BY_TAG[event.tag()] for event in wanted))


# Recorded events.


_STREAMS: tuple[tuple[Any, str, str], ...] = (
    (AgentEvent, AGENT.category, "agent_id"),
    (AuditEvent, AUDIT.category, "projector"),
    (ClaimEvent, CLAIM.category, "name"),
    (IdentityEvent, KEY_RING.category, "type"),
    (WorkflowEvent, WORKFLOW.category, "workflow_id"),
    (RunEvent, RUN.category, "run_id"),
    (SettingsEvent, SETTINGS.category, "type"),
)


_BEGINNINGS = events_of(AgentRegistered, WorkflowDrafted, RunStarted, ApiKeyCreated, SettingDefined)


def recorded(
    *events: AnyEvent,
    workspace_id: WorkspaceId = WORKSPACES[0],
    actor: str = "key:k1",
    start: datetime = START,
    after: int = 0,
) -> list[Recorded[Any]]:
    """Put events into one workspace's log, a second and a position apart."""
    placed = [
        (event, workspace_id, start + timedelta(seconds=nth)) for nth, event in enumerate(events)
    ]
    return _log(placed, actor=actor, after=after)


def logs(
    events: st.SearchStrategy[Any] | None = None, *, max_size: int = 30
) -> st.SearchStrategy[list[Recorded[Any]]]:
    """Give whole logs: any events of two workspaces, their streams interleaved."""
    placed = st.tuples(
        any_event() if events is None else events, st.sampled_from(WORKSPACES), moments
    )
    return st.lists(placed, max_size=max_size).map(_log)


def _log(
    placed: list[tuple[AnyEvent, WorkspaceId, datetime]], *, actor: str = "key:k1", after: int = 0
) -> list[Recorded[Any]]:
    versions: dict[StreamId, int] = {}
    log: list[Recorded[Any]] = []
    for nth, (event, workspace_id, at) in enumerate(placed, start=1):
        stream_id = _stream(event, workspace_id)
        versions[stream_id] = versions.get(stream_id, 0) + 1
        log.append(
            Recorded(
                event=event,
                event_id=f"event-{after + nth}",
                stream_id=stream_id,
                stream_version=versions[stream_id],
                global_position=after + nth,
                metadata=Metadata(
                    workspace_id=workspace_id,
                    actor=actor,
                    correlation_id="c",
                    command_id=CommandId(f"command-{nth}"),
                    occurred_at=at,
                ),
            )
        )
    return log


def _stream(event: Event, workspace_id: WorkspaceId) -> StreamId:
    category, key = next((c, k) for union, c, k in _STREAMS if type(event) in get_args(union))
    entity = getattr(getattr(event, "subject", event), key, "")
    return StreamId(f"{category}-{workspace_id}+{entity}")
