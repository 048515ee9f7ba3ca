"""Named points between any two side effects, at which a test has a process fail.

`FAILPOINT=name:nth:kill` in the environment kills the process at the nth passage of a point;
`raise` raises there instead. Off unless that variable is set: a call is then one comparison.
"""

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

VARIABLE = "FAILPOINT"

_wanted = os.environ.get(VARIABLE, "")
_passed: Counter[str] = Counter()

Message: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Any, Send], Awaitable[None]]


class FailpointReached(Exception):
    """A test asked for a failure here."""


def failpoint(name: str) -> None:
    """Mark a point. The name is `<part>.<when>`, unique, and a literal: a test collects them."""
    if _wanted:
        _reach(name)


def _reach(name: str) -> None:
    wanted, nth, action = _wanted.split(":")
    if name != wanted:
        return
    _passed[name] += 1
    if _passed[name] != int(nth):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise FailpointReached(name)


def answering(app: App) -> App:
    """Mark the points around every part of an answer to a command, if any point is wanted."""
    if not _wanted:
        return app

    async def marked(scope: Message, receive: object, send: Send) -> None:
        async def sent(message: Message) -> None:
            failpoint("api.before_answer")
            await send(message)
            failpoint("api.after_answer")

        await app(scope, receive, sent if scope.get("method") == "POST" else send)

    return marked
