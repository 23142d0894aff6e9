"""The header of an AI packet: who sends what to whom, how far it has come, what it has seen.

Whitepaper, section 2.3: a packet has a source and a destination address, and what routing needs.
A `Header` that exists is valid: every field is checked when it is made, from wherever it came. One
header has one text: sorted compact JSON, without the fields that have their default value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from mfd_flower.canonical_json import dump_json, load_json
from mfd_flower.checks import Bounds, Form, Length, check_fields, check_names, filled
from mfd_flower.names import MAX_CLASSES, Address, Area, Digest, ModelId, Task, Walker
from mfd_flower.packets.codecs import AnyCodecName
from mfd_flower.packets.frame import wrong
from mfd_flower.packets.members import numbers_in

MAX_HOPS = 2**31 - 1
MAX_VISITED = 64
MAX_TUNABLES = 4_096
MAX_AXES = 8
MAX_ELEMENTS = 2**40
Hops = Annotated[int, Bounds(0, MAX_HOPS)]
NAME = r"(?!__metadata__)[A-Za-z0-9_./-]{1,200}"
Name = Annotated[str, Form(NAME, "a name of up to 200 letters, digits, _ . / -")]
MEMBERS = r"(?:[0-9a-f]{2}){0,512}"
Members = Annotated[str, Form(MEMBERS, "a bitmap of up to 4,096 bits in hexadecimal")]
Shape = Annotated[tuple[Annotated[int, Bounds(1, MAX_ELEMENTS)], ...], Length(MAX_AXES)]


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything in a packet but its tensors; `PacketError` if a field is not acceptable."""

    protocol: Annotated[int, Bounds(2, 2)] = 2
    """Version of this format."""
    packet_id: Annotated[str, Form(r"[0-9a-f]{32}", "32 hexadecimal digits")]
    model_id: ModelId
    """Which model the tunables belong to."""
    version: Digest
    """Digest of the tunables that the receiver has after decoding."""
    parent: Digest = ""
    """Version before this hop; empty for the first."""
    source: Address
    destination: Address
    ttl: Hops
    """Hops left."""
    hop: Hops
    """Number of this hop."""
    visited: Annotated[tuple[Address, ...], Length(MAX_VISITED)] = ()
    """The last visits, oldest first."""
    toured: Members = ""
    """Who was visited in this tour, which ends when all were; where the walk's policy asks."""
    kind: Literal["full", "delta"] = "full"
    """``full``: the payload has every tunable; ``delta``: those that differ from `base`."""
    base: Digest = ""
    """Version that a delta builds on; empty for ``full``."""
    changed: Members = ""
    """Of a delta: which tunables it brings, as a bitmap over `shapes`; empty for ``full``."""
    codec: AnyCodecName = "fp32"
    shapes: Annotated[Mapping[Name, Shape], Length(MAX_TUNABLES, least=1)]
    """Shape of every tunable of the travelling model, sorted by name."""
    gate: Annotated[float, Bounds(0.0, 1.0)] = 0.0
    """Accuracy on local data from which a node may send the model on; 0 for none."""
    below_gate: bool = False
    """The last node's model did not reach the accuracy gate."""
    seen: Annotated[tuple[Annotated[float, Bounds(0.0)], ...], Length(MAX_CLASSES)] = ()
    """Samples of each label that the walk has trained on."""
    updated: Mapping[str, Hops] = field(default_factory=dict)
    """Hop at which each tunable was last updated, as far as there was one."""
    samples: Annotated[int, Bounds(0)] = 0
    """Samples that the walk has trained on."""
    walker: Walker = "w0"
    """Which of several walks the packet belongs to."""
    tour: Annotated[str, Form(r"(?:[0-9a-f]{32})?", "32 hexadecimal digits")] = ""
    """Of sums, which no node adds itself to twice: what its own record of that is called."""
    features: Digest = ""
    """What sums are of: the digest of frozen model and rounding."""
    included: Members = ""
    """Whose samples the sums are over."""
    passed: Members = ""
    """Who was asked and is not in them: other walkers have it, or it could not be reached."""
    meeting: Address = ""
    """Node where several walkers end: their sums are added up there, their models averaged."""
    task: Task = ""
    """What the model is for, where the walk's policy asks: what the data are for at its origin."""

    area: Area = ""
    """Of the collaboration set that the model stays in, where the walk's policy asks."""

    def __post_init__(self) -> None:
        """Check every field by itself, then those that others bound."""
        check_fields(Header, self, wrong)
        if (self.kind == "delta") != bool(self.base):
            raise wrong("base", self.base, "must be a version in a delta, empty in a full packet")
        if self.kind == "full" and self.changed:
            raise wrong("changed", self.changed, "must be empty in a full packet")
        self.travelling()
        if sum(map(math.prod, self.shapes.values())) > MAX_ELEMENTS:
            raise wrong("shapes", self.shapes, f"at most {MAX_ELEMENTS} values are accepted")
        for name, when in self.updated.items():
            if name not in self.shapes:
                raise wrong("updated", name, "not a tunable in shapes")
            Bounds(0, self.hop).whole(f"updated.{name}", when, wrong)

    def travelling(self) -> list[str]:
        """Return the tunables that the payload brings, sorted by name."""
        names = list(self.shapes)
        if self.kind == "full":
            return names
        return [names[i] for i in numbers_in(self.changed, len(names), "changed", "tunables")]

    def values(self) -> dict[str, Any]:
        """Return the header fields by name."""
        return {part.name: getattr(self, part.name) for part in fields(Header)}

    def header_json(self) -> str:
        """Return the one text that stands for this header."""
        return dump_json(filled(Header, self))


def parse_header(content: str) -> Header:
    """Read a header from its one text.

    `PacketError` if a key or field is wrong, or `header_json` would write it in another way.
    """
    header = Header(**check_names(Header, load_json("header", content, wrong), "header.", wrong))
    if header.header_json() != content:
        raise wrong("header", content, "spelled in another way than sorted, compact JSON")
    return header
