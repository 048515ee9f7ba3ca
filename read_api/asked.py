"""A request as a route sees it: who asks, what may be commanded and read, and how.

Attributes of the request rather than injected parameters, because Litestar
starts a task for each of those: a third of a command's time.
"""

from collections.abc import Callable
from typing import ClassVar

import msgspec

from commands.agents import AgentCommands
from commands.runs import RunCommands
from commands.transact import Issued
from commands.workflows import WorkflowCommands
from read_api.auth import Principal, issued
from read_api.bodies import StrictRequest
from read_api.view import Ports, View


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    agents: AgentCommands
    workflows: WorkflowCommands
    runs: RunCommands


class ApiRequest(StrictRequest):
    """A request that the guard has let through; `bound_to` gives it what all requests share."""

    ports: ClassVar[Ports]
    commands: ClassVar[Commands]
    closing: ClassVar[Callable[[], bool]]

    @property
    def principal(self) -> Principal:
        principal = self.scope["auth"]
        assert isinstance(principal, Principal)
        return principal

    @property
    def view(self) -> View:
        """Bind a view to the principal.

        Raises:
            BadHeader: Min-Position is not a position.
        """
        return View(self.ports, self.principal, self.headers.get("min-position"))

    async def issued(self) -> Issued:
        """Gather the circumstances of a command.

        Raises:
            BadHeader: Idempotency-Key or If-Match is malformed.
        """
        return await issued(self, self.principal, self.ports.circumstances)


def bound_to(ports: Ports, commands: Commands, closing: Callable[[], bool]) -> type[ApiRequest]:
    """Make one application's kind of request. Its attributes cost nothing, unlike Litestar's
    application state, whose every look-up takes a lock.
    """
    shared = {"ports": ports, "commands": commands, "closing": staticmethod(closing)}
    return type("BoundRequest", (ApiRequest,), shared)
