"""A request as a route sees it: who asks, what may be commanded and read, and how.

Attributes of the request rather than injected parameters, because Litestar
starts a task for each of those: a third of a command's time.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from commands.agents import AgentCommands
from commands.identity import IdentityCommands
from commands.runs import RunCommands
from commands.settings import SettingCommands
from commands.transact import Issued
from commands.workflows import WorkflowCommands
from domain.identity import KeyId
from read_api.auth import PERMISSION, Admitted, Authenticator, Principal, issued
from read_api.bodies import StrictRequest
from read_api.quotas import RunPlaces
from read_api.standing import Standing
from read_api.streams import Places
from read_api.tickets import Tickets
from read_api.view import Ports, View


class NewKey(Protocol):
    """Attributes:
    text: The key itself: shown once, never stored.
    """

    @property
    def text(self) -> str: ...
    @property
    def key_id(self) -> KeyId: ...
    @property
    def secret_hash(self) -> str: ...
    @property
    def last_four(self) -> str: ...


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    make_key: Makes an API key, which opens nothing until it is recorded.
    """

    identity: IdentityCommands
    make_key: Callable[[], NewKey]
    agents: AgentCommands
    workflows: WorkflowCommands
    runs: RunCommands
    settings: SettingCommands


class Shared(NamedTuple):
    """What all requests of one application have in common."""

    ports: Ports
    commands: Commands
    closing: Callable[[], bool]
    places: Places
    tickets: Tickets
    authenticator: Authenticator
    run_places: RunPlaces


class ApiRequest(StrictRequest):
    """A request that the guard has let through.

    Attributes:
        shared: Set in the subclass that `bound_to` makes. It costs nothing to look at, unlike
            Litestar's application state, where every look takes a lock.
    """

    shared: ClassVar[Shared]

    @property
    def ports(self) -> Ports:
        return self.shared.ports

    @property
    def commands(self) -> Commands:
        return self.shared.commands

    @property
    def closing(self) -> Callable[[], bool]:
        return self.shared.closing

    @property
    def places(self) -> Places:
        """Of live streams."""
        return self.shared.places

    @property
    def run_places(self) -> RunPlaces:
        return self.shared.run_places

    @property
    def tickets(self) -> Tickets:
        return self.shared.tickets

    def standing(self) -> Standing:
        """Begin to look whether the principal may still do what the route demands."""
        permission = self.scope["route_handler"].opt[PERMISSION]
        return Standing(self.shared.authenticator, self.principal, permission)

    @property
    def admitted(self) -> Admitted:
        admitted = self.scope["auth"]
        assert isinstance(admitted, Admitted)
        return admitted

    @property
    def principal(self) -> Principal:
        return self.admitted.principal

    @property
    def view(self) -> View:
        """Bind a view to the principal.

        Raises:
            BadHeader: Min-Position is not a position.
        """
        principal, headers = self.admitted
        return View(self.ports, principal, headers.get(b"min-position"))

    async def issued(self) -> Issued:
        """Gather the circumstances of a command.

        Raises:
            BadHeader: Idempotency-Key or If-Match is malformed.
        """
        return await issued(self, self.admitted, self.ports.circumstances)


def bound_to(shared: Shared) -> type[ApiRequest]:
    """Make one application's kind of request."""
    return type("BoundRequest", (ApiRequest,), {"shared": shared})
