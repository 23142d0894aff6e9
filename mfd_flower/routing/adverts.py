"""What a node announces to its neighbours, so that they can weigh sending it a packet.

An advert travels as a short JSON text (`Advert.to_text`) and comes from another node:
`Advert.from_text`, through which all reading goes, believes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Self

import numpy as np

from mfd_flower.canonical_json import dump_json, load_json
from mfd_flower.checks import Bounds, Form, Length, build, filled, refusal_line
from mfd_flower.names import HEX, MAX_CLASSES, WALKER, Address, Task
from mfd_flower.routing.sketch import SketchText

MAX_INT = 2**53
"""Largest whole number that every float holds exactly."""
MAX_HEADS = 8
KEPT_CHARS = 4096
"""Shorter texts are read once a process; longer ones would let a stranger fill its memory."""
Count = Annotated[int, Bounds(0, MAX_INT)]
Number = Annotated[float, Bounds(0.0, MAX_INT)]
Head = Annotated[str, Form(f"{WALKER}={HEX}", "walker=hash, of SHA-256 in hexadecimal")]
SHORT = {
    "address": "a",
    "label_counts": "c",
    "samples": "n",
    "interest": "i",
    "flops_per_s": "f",
    "degree": "d",
    "heads": "l",
    "sequence": "q",
    "lifetime_s": "t",
    "hops_left": "h",
    "noise_epsilon": "e",
    "task": "k",
    "loss": "o",
    "sketch": "s",
}
"""Names of the fields in an advert's text: on a full mesh adverts are most of the control bytes."""
LONG = {short: name for name, short in SHORT.items()}


class AdvertError(ValueError):
    """A field of an advert that is not acceptable: its name, its value, what is accepted."""

    def __init__(self, name: str, value: object, accepted: str) -> None:
        super().__init__(refusal_line(f"advert.{name}", value, accepted))


@dataclass(frozen=True, slots=True)
class Advert:
    """A node's announcement."""

    address: Address
    """Of the node that announces itself, such as ``n3``."""
    label_counts: Annotated[tuple[Number, ...], Length(MAX_CLASSES)] = ()
    """Samples of each class, ``(num_classes,)``; empty if it keeps them to itself."""
    samples: Count = 0
    """Samples in all; left out on the way if that is the rounded sum of the label counts."""
    interest: Number = 0.0
    """Data-interest value against an empty history."""
    flops_per_s: Annotated[float, Bounds(0.0)] = 1.0
    """Compute rate."""
    degree: Count = 1
    """Neighbours it has."""
    heads: Annotated[tuple[Head, ...], Length(MAX_HEADS)] = ()
    """How far it has seen each walker's chain in the ledger: ``walker=hash``."""
    sequence: Count = 0
    """Grows with each announcement of this node; the newest holds."""
    lifetime_s: Number = math.inf
    """Seconds from its arrival for which it holds; without any, until a newer one comes."""
    hops_left: Annotated[int, Bounds(0, 255)] = 0
    """Links it may cross after the one it came over."""
    noise_epsilon: Number = 0.0
    """Privacy budget of the noise on the counts, 0 if they are exact."""
    task: Task = ""
    """What its data are for, see `data.federation.Federation.task`."""
    loss: Number | None = None
    """Of the last model that came, on its own data as that arrived: mean cross-entropy in nats."""
    sketch: SketchText = ""
    """What its pictures are like, see `routing.sketch`."""

    def to_text(self) -> str:
        """Return the advert as JSON under `SHORT` names, without what is taken for granted."""
        values = {**filled(Advert, self), "samples": self.samples}
        if self.samples == round(sum(self.label_counts)):
            del values["samples"]
        return dump_json({SHORT[name]: _plain(value) for name, value in values.items()})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Rebuild an advert from another node's text.

        `AdvertError` if a field is unknown, of another type, out of bounds or not finite, or the
        address is missing.
        """
        return cls._kept(text) if len(text) <= KEPT_CHARS else cls._read(text)

    @classmethod
    @lru_cache(maxsize=4096)
    def _kept(cls, text: str) -> Self:
        return cls._read(text)

    @classmethod
    def _read(cls, text: str) -> Self:
        values = load_json("text", text, AdvertError)
        if strange := [key for key in values if key not in LONG]:
            raise AdvertError("text", strange[0], f"accepted keys: {', '.join(LONG)}")
        told = {LONG[key]: value for key, value in values.items()}
        advert: Self = build(cls, told, error=AdvertError)
        if "lifetime_s" in told and advert.lifetime_s == math.inf:
            raise AdvertError("lifetime_s", math.inf, "must be finite where it is said")
        if "samples" in told:
            return advert
        return dataclasses.replace(advert, samples=round(sum(advert.label_counts)))


def with_laplace_noise(
    counts: Sequence[float], epsilon: float, rng: np.random.Generator
) -> list[float]:
    """Return label counts with noise: epsilon-differential privacy of a single sample.

    One sample more or less changes one count by 1, so Laplace noise of scale 1 / epsilon on every
    count hides it (Dwork et al. 2006), if nothing else that follows from the exact counts is told.
    Each fresh draw spends `epsilon`, which is above 0, again: draw once for a data set, not once
    for an announcement. The noise has a standard deviation of sqrt(2) / epsilon samples; receivers
    must not be able to guess `rng`, or they subtract it.
    """
    noise = rng.laplace(scale=1 / epsilon, size=len(counts))
    return np.maximum(np.asarray(counts, dtype=float) + noise, 0.0).tolist()


def _plain(value: Any) -> Any:
    """Return whole numbers as such, which are shorter."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and value <= MAX_INT:
        return int(value)
    return value
