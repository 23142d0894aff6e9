"""What can go wrong with a message to a node or with the node, and how it is drawn.

A node that dies before or during its work is not called: nothing of that work would be left. One
that dies later keeps its state. Whoever is down misses messages until its downtime is over.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from mfd_flower.config import FaultsConfig

Damage = Literal["flipped bit", "cut off"]


@dataclass(frozen=True)
class Fault:
    """What happens to one message, and to the node that it goes to.

    The node gets `copies` of the request; `downtime` more messages find it down, `late_by` go out
    before a late reply comes in. Without a reply a sender hears that the node is not available, or
    nothing if the fault is `silent`.
    """

    kind: str
    copies: int = 1
    request: Literal["", Damage] = ""
    reply: Literal["", Damage, "lost", "late"] = ""
    downtime: int = 0
    silent: bool = False
    late_by: int = 0

    def noticed(self) -> Fault:
        """Return what comes of it where damage is noticed on the way: nothing arrives."""
        if self.request:
            return replace(self, copies=0, request="", reply="lost")
        return replace(self, reply="lost") if self.reply in get_args(Damage) else self


DEATHS = (
    Fault("dies-before-training", copies=0, reply="lost"),
    Fault("dies-during-training", copies=0, reply="lost"),
    Fault("dies-after-training", reply="lost"),
    Fault("dies-sending", reply="cut off"),
    Fault("dies-after-reply"),
)
LOSSES = (
    Fault("request-lost", copies=0, reply="lost", silent=True),
    Fault("reply-lost", reply="lost", silent=True),
)
DUPLICATE = Fault("request-duplicated", copies=2)
CORRUPTIONS = (
    Fault("request-corrupted", request="flipped bit"),
    Fault("reply-corrupted", reply="flipped bit"),
)
DELAY = Fault("reply-delayed", reply="late")


def drawn(config: FaultsConfig, rng: np.random.Generator) -> Fault | None:
    """Return the fault that hits a message, or None."""
    deaths = [replace(fault, downtime=config.downtime, silent=config.silent) for fault in DEATHS]
    draw = rng.random()
    for share, faults in (
        (config.loss, LOSSES),
        (config.death, deaths),
        (config.duplicate, [DUPLICATE]),
        (config.corruption, CORRUPTIONS),
        (config.delay, [replace(DELAY, late_by=config.late_by)]),
    ):
        if draw < share:
            return faults[rng.integers(len(faults))]
        draw -= share
    return None


def generator(*key: str | int) -> np.random.Generator:
    """Return randomness that depends on the key and nothing else."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()))
