"""Walkers meet in the versions that they left behind: each mixes in what another one left here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from flwr.app import ConfigRecord

from mfd_flower.walk.trait import Layer, Trait
from mfd_flower.walk.visit import Visit

MERGED = "merge"


@dataclass(frozen=True)
class Merge(Trait):
    """Average with other walkers' versions, weighted by the samples that each has trained on."""

    layer: ClassVar[Layer] = Layer.MERGE

    def arrive(self, visit: Visit) -> None:
        """Mix in every version that another walker left here, each of them once."""
        done = dict(visit.recall(MERGED) or {})
        for walker in visit.custody.walkers():
            header = visit.custody.header(walker)
            if walker == visit.start.walker or header is None or done.get(walker) == header.hop:
                continue
            other = visit.custody.kept(walker)
            theirs, share = other.decoded(), other.samples / (other.samples + visit.start.samples)
            visit.tensors = {
                name: torch.lerp(tensor, theirs[name], share)
                for name, tensor in visit.tensors.items()
            }
            done[walker] = header.hop
            visit.merged.append(other.version)
        if done:
            visit.keep(MERGED, ConfigRecord({**done}))
