"""Values of settings: text on the wire and in the log, and of some type all the same."""

import math
import re
from typing import Literal, TypeAlias, assert_never

import msgspec

from domain.errors import Invalid, TooLong

ValueType: TypeAlias = Literal["string", "number", "boolean", "json"]
"""The original's."""

VALUE_BYTES_MAX = 8 * 1024

PROVIDER_NAMES = ("openai", "anthropic", "huggingface", "offline")

_NUMBER = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,3})?")
_INTEGER = re.compile(r"-?[0-9]{1,17}")


class Rules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a value must keep to beside its type; on the wire, too.

    Attributes:
        length_max: Characters; then it is a text of one line that is not blank.
        options: The only ones, if there are any.
    """

    minimum: float | None = None
    maximum: float | None = None
    integer: bool = False
    length_max: int | None = None
    options: tuple[str, ...] = ()


def checked(value: str, value_type: ValueType, rules: Rules, pointer: str) -> str:
    """Give a value as it is stored.

    The message of a refusal never repeats the value, which may be a secret.

    Raises:
        Invalid: It is not of the type, or breaks a rule.
        TooLong: It is.
    """
    size = len(value.encode())
    if size > VALUE_BYTES_MAX:
        raise TooLong("The value", size=size, size_max=VALUE_BYTES_MAX, pointer=pointer)
    match value_type:
        case "string":
            return _text(value, rules, pointer)
        case "number":
            return _number(value.strip(), rules, pointer)
        case "boolean":
            return _boolean(value.strip().lower(), pointer)
        case "json":
            return _json(value, pointer)
        case _:
            assert_never(value_type)


def _text(value: str, rules: Rules, pointer: str) -> str:
    if rules.options and value not in rules.options:
        raise Invalid(f"The value is one of: {', '.join(rules.options)}.", pointer=pointer)
    if rules.length_max is not None and not (
        0 < len(value) <= rules.length_max and value == value.strip() and value.isprintable()
    ):
        raise Invalid(
            f"The value is one line of 1 to {rules.length_max} characters, without blanks around.",
            pointer=pointer,
        )
    return value


def _number(value: str, rules: Rules, pointer: str) -> str:
    form = _INTEGER if rules.integer else _NUMBER
    if not form.fullmatch(value) or not math.isfinite(float(value)):
        kind = "whole number" if rules.integer else "number"
        raise Invalid(f"The value is a {kind}.", pointer=pointer)
    number = float(value)
    if rules.minimum is not None and number < rules.minimum:
        raise Invalid(f"The value is {rules.minimum:g} at least.", pointer=pointer)
    if rules.maximum is not None and number > rules.maximum:
        raise Invalid(f"The value is {rules.maximum:.0f} at most.", pointer=pointer)
    return value


def _boolean(value: str, pointer: str) -> str:
    if value not in {"true", "false"}:
        raise Invalid("The value is true or false.", pointer=pointer)
    return value


def _json(value: str, pointer: str) -> str:
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise Invalid("The value is JSON.", pointer=pointer) from None
    return value
