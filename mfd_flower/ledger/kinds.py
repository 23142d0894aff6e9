"""The kinds of entries: what each has besides the fields that all have, and how fields look."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mfd_flower.ledger.fields import ADDRESS, DIGEST, malformed, matching
from mfd_flower.ledger.keys import SIGNATURE

MAX_MEMBERS = 4096
NEEDED = {
    "genesis": {"version", "members"},
    "version": {"version", "parents"},
    "join": {"subject", "subject_key"},
    "leave": {"subject"},
    "refusal": {"version", "subject", "reason"},
    "readmission": {"subject"},
}
"""What an entry of each kind must have besides the fields that all have."""
ALLOWED = {
    "genesis": {"accuracy_after"},
    "version": {"accuracy_before", "accuracy_after", "receiver", "receipt"},
    "join": {"receiver", "receipt"},
    "leave": {"reason", "receiver", "receipt"},
    "refusal": {"accuracy_before", "accuracy_after", "receiver", "receipt"},
    "readmission": {"reason", "receiver", "receipt"},
}
"""What it may have."""
KIND_FIELDS = sorted(set().union(*NEEDED.values(), *ALLOWED.values()))
TEXTS = {
    "kind": (re.compile("|".join(NEEDED)), f"one of {', '.join(NEEDED)}"),
    "model_id": (
        re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}"),
        "a name of up to 128 letters, digits, . _ : / @ + -",
    ),
    "walker": (re.compile(r"[A-Za-z0-9._-]{1,32}"), "up to 32 letters, digits, . _ -"),
    "author": ADDRESS,
    "key": (re.compile(r"[0-9a-f]{16}"), "16 hexadecimal digits"),
    "signature": SIGNATURE,
}
OPTIONAL_TEXTS = {
    "prev": DIGEST,
    "version": DIGEST,
    "subject": ADDRESS,
    "subject_key": DIGEST,
    "reason": (re.compile(r"[ -~]{1,200}"), "up to 200 printable ASCII characters"),
    "receiver": ADDRESS,
    "receipt": SIGNATURE,
}
ALL_TEXTS = re.compile(
    "\n".join(
        [f"(?:{form[0].pattern})" for form in TEXTS.values()]
        + [f"(?:{form[0].pattern})?" for form in OPTIONAL_TEXTS.values()]
    )
)
"""All of them at once, one a line, which is several times as fast; none can have a line break."""


def check_texts(values: Mapping[str, object]) -> None:
    """Refuse an entry's texts if one is not as it must be; the optional ones may be empty."""
    found: list[Any] = [values[name] for name in (*TEXTS, *OPTIONAL_TEXTS)]
    if {*map(type, found)} == {str} and ALL_TEXTS.fullmatch("\n".join(found)):
        return
    for name, form in TEXTS.items():
        matching(name, values[name], form)
    for name, form in OPTIONAL_TEXTS.items():
        if values[name] != "":
            matching(name, values[name], form)


def checked_parents(parents: object) -> tuple[str, ...]:
    """Return the parents of a version as a tuple, or refuse them."""
    if not isinstance(parents, list | tuple) or len(parents) > 2:
        raise malformed("parents", parents, "one version, or two of a merge")
    for parent in parents:
        matching("parents", parent, DIGEST)
    if len(set(parents)) < len(parents):
        raise malformed("parents", parents[0], "two different versions")
    return tuple(parents)


def checked_members(members: object) -> dict[str, str]:
    """Return the public keys of a collaboration set sorted by address, or refuse them."""
    if not isinstance(members, Mapping) or len(members) > MAX_MEMBERS:
        raise malformed("members", members, f"keys of at most {MAX_MEMBERS} addresses")
    for address, public in members.items():
        matching("members", address, ADDRESS)
        matching(f"members {address}", public, DIGEST)
    return dict(sorted(members.items()))
