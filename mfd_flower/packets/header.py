"""The header of an AI packet: who sends what to whom, how far it has come, what it has seen.

Whitepaper, section 2.3: a packet has a source and a destination address, and what routing needs.
A `Header` that exists is valid: every field is checked when it is made, from wherever it came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mfd_flower.packets.codecs import CODECS
from mfd_flower.packets.fields import (
    PacketError,
    dump_json,
    load_json,
    number,
    sequence,
    show,
    text,
    whole,
)

PROTOCOL = 1
KINDS = ("full", "delta")
MAX_HOPS = 2**31 - 1
MAX_VISITED = 64
MAX_CLASSES = 32_768
MAX_TUNABLES = 4_096
MAX_AXES = 8
MAX_ELEMENTS = 2**40
ADDRESS = (r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "an address of up to 64 letters, digits, . _ -")
DIGEST = (r"[0-9a-f]{64}", "64 hexadecimal digits")
TUNABLE = (
    r"(?!__metadata__)[A-Za-z0-9_./-]{1,200}",
    "a name of up to 200 letters, digits, _ . / -",
)


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything in a packet but its tensors.

    Parameters
    ----------
    protocol : int
        Version of this format.
    packet_id : str
        32 hexadecimal digits.
    model_id : str
        Which model the tunables belong to.
    version : str
        Digest of the tunables that the receiver has after decoding.
    parent : str
        Version before this hop; empty for the first.
    source, destination : str
        Addresses.
    ttl : int
        Hops left.
    hop : int
        Number of this hop.
    visited : tuple of str
        Addresses of the last visits, oldest first, at most 64.
    kind : str
        ``full``: the payload has every tunable; ``delta``: those that differ from `base`.
    base : str
        Version that a delta builds on; empty for ``full``.
    codec : str
        ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    shapes : mapping of str to tuple of int
        Shape of every tunable of the travelling model, sorted by name.
    gate : float
        Accuracy on local data from which a node may send the model on; 0 for none.
    seen : tuple of float
        Samples of each label that the walk has trained on.
    updated : mapping of str to int
        Hop at which each tunable was last updated, as far as there was one.
    samples : int
        Samples that the walk has trained on.
    walker : str
        Which of several walks the packet belongs to.

    Raises
    ------
    PacketError
        If a field has the wrong type or is out of its bounds.
    """

    protocol: int = PROTOCOL
    packet_id: str
    model_id: str
    version: str
    parent: str = ""
    source: str
    destination: str
    ttl: int
    hop: int
    visited: tuple[str, ...] = ()
    kind: str = "full"
    base: str = ""
    codec: str = "fp32"
    shapes: Mapping[str, tuple[int, ...]]
    gate: float = 0.0
    seen: tuple[float, ...] = ()
    updated: Mapping[str, int] = field(default_factory=dict)
    samples: int = 0
    walker: str = "w0"

    def __post_init__(self) -> None:
        """Check every field; lists become tuples, numbers floats, mappings sorted dicts."""
        whole("protocol", self.protocol, PROTOCOL, PROTOCOL)
        text("packet_id", self.packet_id, r"[0-9a-f]{32}", "32 hexadecimal digits")
        text(
            "model_id",
            self.model_id,
            r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}",
            "a name of up to 128 letters, digits, . _ : / @ + -",
        )
        text("version", self.version, *DIGEST)
        if self.parent != "":
            text("parent", self.parent, *DIGEST)
        text("source", self.source, *ADDRESS)
        text("destination", self.destination, *ADDRESS)
        text("walker", self.walker, r"[A-Za-z0-9._-]{1,32}", "up to 32 letters, digits, . _ -")
        whole("ttl", self.ttl, most=MAX_HOPS)
        whole("hop", self.hop, most=MAX_HOPS)
        whole("samples", self.samples)
        text("kind", self.kind, "|".join(KINDS), " or ".join(KINDS))
        text("codec", self.codec, "|".join(CODECS), f"one of {', '.join(CODECS)}")
        if self.kind == "delta":
            text("base", self.base, *DIGEST)
        elif self.base != "":
            raise PacketError(f"base = {show(self.base)}: must be empty in a full packet")
        visited = sequence("visited", self.visited, MAX_VISITED)
        seen = sequence("seen", self.seen, MAX_CLASSES)
        self._set("visited", tuple(text("visited", place, *ADDRESS) for place in visited))
        self._set("gate", number("gate", self.gate, 1))
        self._set("seen", tuple(number("seen", count) for count in seen))
        self._set("shapes", _shapes(self.shapes))
        self._set("updated", _updated(self.updated, self.shapes, self.hop))

    def values(self) -> dict[str, Any]:
        """Return the header fields by name."""
        return {part.name: getattr(self, part.name) for part in fields(Header)}

    def header_json(self) -> str:
        """Return the one text that stands for this header."""
        return dump_json(self.values())

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def parse_header(content: str) -> Header:
    """Read a header from its one text.

    Raises
    ------
    PacketError
        If a key is unknown, missing or there twice, a field is wrong, or `header_json` would write
        the same header in another way.
    """
    header = make_header(load_json("header", content))
    if header.header_json() != content:
        raise PacketError("header: spelled in another way than sorted, compact JSON")
    return header


def make_header(values: Mapping[str, Any]) -> Header:
    """Make a header from values of unknown origin; every field must be there."""
    names = {part.name for part in fields(Header)}
    if missing := names - values.keys():
        raise PacketError(f"header {min(missing)}: missing")
    if unknown := values.keys() - names:
        raise PacketError(f"header {show(min(unknown))}: not a field of a packet")
    return Header(**values)


def _shapes(shapes: object) -> dict[str, tuple[int, ...]]:
    if not isinstance(shapes, Mapping) or not 1 <= len(shapes) <= MAX_TUNABLES:
        raise PacketError(f"shapes: must name 1 to {MAX_TUNABLES} tunables")
    found = {}
    for name, shape in shapes.items():
        text("shapes", name, *TUNABLE)
        axes = sequence(f"shapes {name}", shape, MAX_AXES)
        found[name] = tuple(whole(f"shapes {name}", n, 1, MAX_ELEMENTS) for n in axes)
    if sum(math.prod(shape) for shape in found.values()) > MAX_ELEMENTS:
        raise PacketError(f"shapes: more than {MAX_ELEMENTS} values")
    return dict(sorted(found.items()))


def _updated(updated: object, shapes: Mapping[str, object], hop: int) -> dict[str, int]:
    if not isinstance(updated, Mapping):
        raise PacketError(f"updated = {show(updated)}: must be a mapping")
    for name, when in updated.items():
        if name not in shapes:
            raise PacketError(f"updated {show(name)}: not a tunable in shapes")
        whole(f"updated {name}", when, most=hop)
    return dict(sorted(updated.items()))
