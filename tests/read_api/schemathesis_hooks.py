"""What schemathesis, which runs in a process of its own, is told about generated requests."""

import os
import re
from typing import Any

import schemathesis

IF_MATCH = re.compile(r'"[0-9]{1,18}"')


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Leave out requests that are said to be valid and are not, and what ends the run's own key.

    The coverage phase makes headers of letters and digits only, whatever their pattern, so it
    cannot spell an ETag. And 7.0 is an integer to JSON Schema, which has no way to say that only
    7 is taken.
    """
    if (case.path_parameters or {}).get("key_id") == os.environ["API_KEY_ID"]:
        return False
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return True
    etag = (case.headers or {}).get("If-Match")
    spelled = etag is None or IF_MATCH.fullmatch(etag) is not None
    return spelled and not _has_whole_float(case.body)


@schemathesis.hook
def map_case(_context: Any, case: Any) -> Any:
    """Ask for what is there already: an answer waits up to a second for any later position."""
    asked = (case.headers or {}).get("Min-Position", "")
    if isinstance(asked, str) and asked.isascii() and asked.isdigit() and len(asked) <= 18:
        case.headers["Min-Position"] = str(int(asked) % 2)
    return case


def _has_whole_float(node: Any) -> bool:
    if isinstance(node, dict):
        return any(_has_whole_float(child) for child in node.values())
    if isinstance(node, list):
        return any(_has_whole_float(child) for child in node)
    return isinstance(node, float) and node.is_integer()
