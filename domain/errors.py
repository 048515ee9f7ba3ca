"""Every way a decision can say no.

One class per reason, each carrying the values its message needs, so that a
caller can act on fields and never parses text. HTTP knows nothing here:
`read_api.errors` maps classes to statuses.
"""

from typing import ClassVar


class DomainError(Exception):
    """A well-formed request that the rules refuse.

    Attributes:
        pointer: JSON pointer (RFC 6901) into the request to what is at fault,
            or None when the fault is not in the request.
    """

    code: ClassVar[str] = "domain_error"

    def __init__(self, message: str, *, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer


class NotFound(DomainError):
    """No such thing in this workspace; another workspace's thing looks the same."""

    code = "not_found"

    def __init__(self, kind: str, identifier: str) -> None:
        super().__init__(f"{kind} not found")
        self.kind = kind
        self.identifier = identifier


class AlreadyExists(DomainError):
    """An id was used twice for two different things."""

    code = "already_exists"

    def __init__(self, kind: str, identifier: str) -> None:
        super().__init__(f"{kind.capitalize()} with id {identifier!r} exists already.")
        self.kind = kind
        self.identifier = identifier


class NameIsTaken(DomainError):
    """Another thing of this kind in the workspace holds the name."""

    code = "name_is_taken"

    def __init__(self, kind: str, name: str, *, pointer: str = "/name") -> None:
        super().__init__(f"{kind} with this name already exists", pointer=pointer)
        self.kind = kind
        self.name = name


class AgentIsArchived(DomainError):
    """An archived agent was asked to change or to work."""

    code = "agent_is_archived"

    def __init__(self, agent_id: int, *, pointer: str | None = None) -> None:
        super().__init__(f"Agent {agent_id} is archived.", pointer=pointer)
        self.agent_id = agent_id


class WorkflowIsArchived(DomainError):
    """An archived workflow was asked to change or to run."""

    code = "workflow_is_archived"

    def __init__(self, workflow_id: int) -> None:
        super().__init__(f"Workflow {workflow_id} is archived and can no longer change.")
        self.workflow_id = workflow_id


class WorkflowIsNotPublished(DomainError):
    """A draft was asked to run."""

    code = "workflow_is_not_published"

    def __init__(self, workflow_id: int) -> None:
        super().__init__(f"Workflow {workflow_id} is a draft: publish it before it runs.")
        self.workflow_id = workflow_id


class RunIsFinished(DomainError):
    """A run that has ended was asked to stop."""

    code = "run_is_finished"

    def __init__(self, run_id: int, status: str) -> None:
        super().__init__(f"Execution {run_id} has already {status}.")
        self.run_id = run_id
        self.status = status


class Invalid(DomainError):
    """A value that is well-formed but breaks a rule about its content."""

    code = "invalid"

    def __init__(self, message: str, *, pointer: str) -> None:
        super().__init__(message, pointer=pointer)


class TooLong(DomainError):
    """A text over its bound."""

    code = "too_long"

    def __init__(self, what: str, *, size: int, size_max: int, pointer: str) -> None:
        super().__init__(f"{what} has {size} bytes; {size_max} are allowed.", pointer=pointer)
        self.size_max = size_max


class SettingIsRequired(DomainError):
    """A setting that must not be missing was asked to go."""

    code = "setting_is_required"

    def __init__(self, setting: str) -> None:
        super().__init__("Cannot delete required setting")
        self.setting = setting


class StreamConflict(DomainError):
    """Another writer appended to the stream between our read and our append."""

    code = "stream_conflict"

    def __init__(self, stream_id: str, expected_version: int) -> None:
        super().__init__(f"Stream {stream_id!r} is no longer at version {expected_version}.")
        self.stream_id = stream_id
        self.expected_version = expected_version


class VersionMismatch(DomainError):
    """The caller named, with If-Match, a version that is not the newest."""

    code = "version_mismatch"

    def __init__(self, expected_version: int, version: int) -> None:
        super().__init__(f"You named version {expected_version}; the newest is {version}.")
        self.expected_version = expected_version
        self.version = version


class NotAllowed(DomainError):
    """Somebody of another role may do this, the caller may not."""

    code = "not_allowed"


class LastOwner(DomainError):
    """A workspace keeps at least one owner."""

    code = "last_owner"

    def __init__(self) -> None:
        super().__init__("The workspace would be left without an owner.")


class InvitationIsOver(DomainError):
    """An invitation was used after its time."""

    code = "invitation_is_over"

    def __init__(self, invitation_id: str) -> None:
        super().__init__("The invitation has expired; ask for another one.")
        self.invitation_id = invitation_id


class TooMany(DomainError):
    """A bound on how many there may be."""

    code = "too_many"

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"There may be {most} {what} at most.")
        self.most = most
