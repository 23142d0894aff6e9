"""What a node announces to its neighbours, so that they can weigh sending it a packet.

An advert travels as a short JSON text (`Advert.to_text`) and comes from another node:
`Advert.from_fields`, through which all reading goes, believes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mfd_flower.routing.interest import interest

MAX_CLASSES = 100_000
MAX_VERSIONS = 8
MAX_CHARS = 64
"""Longest address, and longest version digest (SHA-256 in hexadecimal)."""
MAX_HOPS = 255
MAX_TEXT_CHARS = 1 << 22
MAX_INT = 2**53
"""Largest whole number that every float holds exactly."""

HEAD = re.compile(r"[^=]{1,64}=[0-9a-f]{64}", re.ASCII)
"""Walker and hash of an entry."""

SHORT = {
    "address": "a",
    "label_counts": "c",
    "samples": "n",
    "interest": "i",
    "flops_per_s": "f",
    "degree": "d",
    "versions": "v",
    "heads": "l",
    "sequence": "q",
    "lifetime_s": "t",
    "hops_left": "h",
    "noise_epsilon": "e",
}
"""Names of the fields in an advert's text: on a full mesh adverts are most of the control bytes."""

Value = str | int | float | list[str] | list[float]


class AdvertError(ValueError):
    """A field of an advert that is not acceptable: its name, its value, what is accepted."""

    def __init__(self, name: str, value: object, accepted: str) -> None:
        # The value comes from another node and may be of any size.
        super().__init__(f"advert.{name} = {reprlib.repr(value)}: {accepted}")


@dataclass(frozen=True, slots=True)
class Advert:
    """A node's announcement.

    Attributes
    ----------
    address : str
        Of the node that announces itself, such as ``n3``; 1 to 64 characters.
    label_counts : tuple of float
        Samples of each class, ``(num_classes,)``; empty if it keeps them to itself.
    samples : int
        Samples in all.
    interest : float
        Data-interest value against an empty history.
    flops_per_s : float
        Compute rate.
    degree : int
        Neighbours it has.
    versions : tuple of str
        Digests of the model versions it has cached, 8 at most.
    heads : tuple of str
        How far it has seen each walker's chain in the ledger: ``walker=hash``, 8 at most.
    sequence : int
        Grows with each announcement of this node; the newest holds.
    lifetime_s : float
        Seconds from its arrival for which it holds.
    hops_left : int
        Links it may cross after the one it came over.
    noise_epsilon : float
        Privacy budget of the noise on the counts, 0 if they are exact.
    """

    address: str
    label_counts: tuple[float, ...] = ()
    samples: int = 0
    interest: float = 0.0
    flops_per_s: float = 1.0
    degree: int = 1
    versions: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    sequence: int = 0
    lifetime_s: float = 3600.0
    hops_left: int = 0
    noise_epsilon: float = 0.0

    def fields(self) -> dict[str, Value]:
        """Return the advert as scalars and lists, without what `from_fields` takes for granted."""
        values: dict[str, Value] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            taken = field.default
            if field.name == "samples":
                taken = round(sum(self.label_counts))
            if value == taken:
                continue
            values[field.name] = _plain(value)
        return values

    def to_text(self) -> str:
        """Return `fields` as JSON under the `SHORT` names, which is how an advert travels."""
        short = {SHORT[name]: value for name, value in self.fields().items()}
        return json.dumps(short, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Rebuild an advert from another node's text; raises `AdvertError` as `from_fields`."""
        if len(text) > MAX_TEXT_CHARS:
            raise AdvertError("text", len(text), f"at most {MAX_TEXT_CHARS} characters")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise AdvertError("text", text, f"not JSON ({error})") from None
        if not isinstance(values, dict):
            raise AdvertError("text", text, "a JSON object")
        long = {short: name for name, short in SHORT.items()}
        fields = {long.get(str(key), str(key)): value for key, value in values.items()}
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, mapping: Mapping[str, Any]) -> Self:
        """Rebuild an advert from another node's record.

        Raises
        ------
        AdvertError
            If a field is unknown, of another type, out of bounds or not finite, or the address is
            missing.
        """
        for name in mapping:
            if name not in CHECKS:
                raise AdvertError(str(name), mapping[name], f"accepted: {', '.join(CHECKS)}")
        if "address" not in mapping:
            raise AdvertError("address", None, "missing")
        checked: dict[str, Any] = {name: CHECKS[name](name, mapping[name]) for name in mapping}
        if "samples" not in checked:
            checked["samples"] = round(sum(checked.get("label_counts", ())))
        return cls(**checked)


def with_laplace_noise(advert: Advert, epsilon: float, rng: np.random.Generator) -> Advert:
    """Return the advert with noised counts: epsilon-differential privacy of a single sample.

    One sample more or less changes one count by 1, so Laplace noise of scale 1 / epsilon on every
    count hides it (Dwork et al. 2006). What follows from the exact counts would undo that, hence
    `samples` becomes the rounded sum of the noised counts and `interest` is computed from them. An
    advert without label counts has its `samples` noised as one count. Each fresh draw spends
    `epsilon` again: draw once for a data set, not once for an announcement.

    Parameters
    ----------
    epsilon : float
        Privacy budget, above 0; the noise has a standard deviation of sqrt(2) / epsilon samples.
    rng : numpy.random.Generator
        Must not be guessable by the receivers, or they subtract the noise.
    """
    if not 0 < epsilon < math.inf:
        raise AdvertError("noise_epsilon", epsilon, "must be above 0 and finite")
    exact = np.array(advert.label_counts or (advert.samples,), dtype=float)
    noised = np.maximum(exact + rng.laplace(scale=1 / epsilon, size=exact.shape), 0.0)
    samples = round(noised.sum())
    return dataclasses.replace(
        advert,
        label_counts=tuple(noised.tolist()) if advert.label_counts else (),
        samples=samples,
        interest=interest(noised, (), samples=samples),
        noise_epsilon=epsilon,
    )


def checked_text(name: str, value: object) -> str:
    """Return a short string that is not empty, or refuse it."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CHARS:
        raise AdvertError(name, value, f"a string of 1 to {MAX_CHARS} characters")
    return value


def checked_number(name: str, value: object) -> float:
    """Return a finite number that is not negative as a float, or refuse it."""
    # A whole number too large for a float is refused here, before float() would overflow.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < math.inf
        or (isinstance(value, int) and value > MAX_INT)
    ):
        raise AdvertError(name, value, "a finite number, at least 0")
    return float(value)


def checked_whole(name: str, value: object, most: int = MAX_INT) -> int:
    """Return a whole number from 0 to `most`, or refuse it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise AdvertError(name, value, f"a whole number from 0 to {most}")
    return value


def _plain(value: str | float | tuple[Any, ...]) -> Value:
    """Return whole numbers as such, which are shorter, and tuples as lists."""
    if isinstance(value, tuple):
        plain = [_plain(item) for item in value]
        # A Flower record takes lists of one type only.
        mixed = len({type(item) for item in plain}) > 1
        return list(value) if mixed else plain  # type: ignore[return-value]
    if isinstance(value, float) and value.is_integer() and value <= MAX_INT:
        return int(value)
    return value


def _hops(name: str, value: object) -> int:
    return checked_whole(name, value, MAX_HOPS)


def _items(name: str, value: object, most: int) -> Sequence[object]:
    if not isinstance(value, list | tuple) or len(value) > most:
        raise AdvertError(name, value, f"a list of at most {most} entries")
    return value


def _numbers(name: str, value: object) -> tuple[float, ...]:
    return tuple(checked_number(name, item) for item in _items(name, value, MAX_CLASSES))


def _texts(name: str, value: object) -> tuple[str, ...]:
    return tuple(checked_text(name, item) for item in _items(name, value, MAX_VERSIONS))


def _heads(name: str, value: object) -> tuple[str, ...]:
    heads = _items(name, value, MAX_VERSIONS)
    for head in heads:
        if not isinstance(head, str) or not HEAD.fullmatch(head):
            raise AdvertError(name, head, "walker=hash, of SHA-256 in hexadecimal")
    return tuple(str(head) for head in heads)


CHECKS: dict[str, Callable[[str, object], object]] = {
    "address": checked_text,
    "label_counts": _numbers,
    "samples": checked_whole,
    "interest": checked_number,
    "flops_per_s": checked_number,
    "degree": checked_whole,
    "versions": _texts,
    "heads": _heads,
    "sequence": checked_whole,
    "lifetime_s": checked_number,
    "hops_left": _hops,
    "noise_epsilon": checked_number,
}
