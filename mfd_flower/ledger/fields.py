"""Strict reads of what a stranger wrote in a ledger: one wrong field, one line that names it.

The same checks as `packets.fields`, apart from it because importing that package loads torch, which
a command that only reads a ledger can do without.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

MAX_INT = 2**63 - 1
"""SQLite and Flower's records carry whole numbers in 64 bits."""
Form = tuple[re.Pattern[str], str]
"""What a text must match as a whole, and the same in words."""
ADDRESS: Form = (
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
    "an address of up to 64 letters, digits, . _ -",
)
DIGEST: Form = (re.compile(r"[0-9a-f]{64}"), "64 hexadecimal digits")
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class LedgerError(ValueError):
    """A ledger, or something that was to go into one, is refused.

    Parameters
    ----------
    reason : str
        Short code, one of those that ``docs/ledger.md`` lists.
    message : str
        One line: where, what was found, what is accepted.
    entry : int, optional
        Number of the entry in the ledger or in the text that was read, from 0.
    """

    def __init__(self, reason: str, message: str, entry: int | None = None) -> None:
        super().__init__(message if entry is None else f"entry {entry}: {message}")
        self.reason = reason
        self.entry = entry


def malformed(field: str, value: object, accepted: str) -> LedgerError:
    """Return the error for a field that no entry may have."""
    return LedgerError("malformed", f"{field} = {show(value)}: must be {accepted}")


def show(value: object) -> str:
    """Return a short form of `value` on one line, whatever it is."""
    if isinstance(value, int) and abs(value) > 2**64:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float | str):
        text = repr(value[:60] if isinstance(value, str) else value)
        return text if len(text) <= 60 else text[:57] + "..."
    return type(value).__name__


def whole(field: str, value: object, least: int = 0, most: int = MAX_INT) -> None:
    """Refuse what is not a whole number between the bounds; a bool is none."""
    if type(value) is not int or not least <= value <= most:
        raise malformed(field, value, f"a whole number from {least} to {most}")


def number(field: str, value: Any, most: float = sys.float_info.max) -> float:
    """Return a finite number from 0 to `most` as float; a bool is none."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not 0 <= value <= most:
        upper = "" if most == sys.float_info.max else f" to {most:g}"
        raise malformed(field, value, f"a finite number from 0{upper}")
    # Adding zero turns -0.0, which is another spelling of the same number, into 0.0.
    return float(value) + 0.0


def matching(field: str, value: object, form: Form) -> None:
    """Refuse what is not a string of this form."""
    if type(value) is not str or not form[0].fullmatch(value):
        raise malformed(field, value, form[1])


def dump_json(value: object) -> str:
    """Return the one JSON text that stands for `value`: sorted keys, no spaces, ASCII."""
    return ENCODER.encode(value)


def load_json(field: str, content: str) -> dict[str, Any]:
    """Parse a JSON object; whoever calls compares the text with the one accepted spelling."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LedgerError("malformed", f"{field}: not JSON: {show(str(error))}") from None
    if not isinstance(value, dict):
        raise malformed(field, value, "a JSON object")
    return value
