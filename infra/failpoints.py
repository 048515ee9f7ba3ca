"""Named points between any two side effects, at which a test stops, delays or kills a process.

`FAILPOINT=name:nth:kill` in the environment kills the process at the nth passage of a point;
`raise` raises there instead. Off unless that variable is set: a call is then one comparison.
"""

import os
import signal
from collections import Counter

VARIABLE = "FAILPOINT"

_wanted = os.environ.get(VARIABLE, "")
_passed: Counter[str] = Counter()


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
