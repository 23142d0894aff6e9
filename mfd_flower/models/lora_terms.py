"""A frozen model that has grown: ``W0 + A1 B1 + A2 B2 + ...``, each term a node's low-rank factors.

Hu et al. 2022 (arXiv 2106.09685): an update is a product of two thin matrices, scaled by alpha over
their rank. Here terms of several nodes stand side by side, each in peft's names with the node's in
place of the adapter's: ``....lora_A.n3.weight`` of shape ``(rank, in)`` and ``lora_B``, ``(out,
rank)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OWN = "default"
"""What the one adapter of a model of ours is called."""


def is_factor(name: str) -> bool:
    """Tell whether a tunable is one of LoRA's factors."""
    return ".lora_A." in name or ".lora_B." in name


def renamed(name: str, old: str, new: str) -> str:
    """Return the name of the same factor in another adapter."""
    for factor in (".lora_A.", ".lora_B."):
        front, found, end = name.rpartition(factor)
        if found and end == f"{old}.weight":
            return f"{front}{factor}{new}.weight"
    return name


def adapter_of(name: str) -> str:
    """Return which adapter a factor belongs to."""
    return name.removesuffix(".weight").rpartition(".")[2]


@contextmanager
def standing_on(model: nn.Module, terms: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a model's frozen weights be W0 and these terms, and W0 again at the end.

    Terms are scaled as the model's own, of whose rank they are. The frozen weights of a process are
    those of all its models, so they are not written to but replaced in this one.
    """
    with ExitStack() as undo:
        for path, names in _by_layer(terms).items():
            layer: Any = model.get_submodule(path)
            frozen = layer.base_layer.weight
            left = torch.cat([terms[_partner(n)] for n in names], dim=1).to(frozen)
            right = torch.cat([terms[n] for n in names]).to(frozen)
            grown = torch.addmm(frozen.detach(), left, right, alpha=layer.scaling[OWN])
            undo.callback(setattr, layer.base_layer, "weight", frozen)
            layer.base_layer.weight = nn.Parameter(grown, requires_grad=False)
        yield


def stacked(
    terms: Mapping[str, Tensor], usual: Mapping[str, Tensor], rank: int
) -> dict[str, Tensor]:
    """Return the sum of terms, of a rank each, as one adapter of a model of a larger rank.

    `usual` are the tunables that model begins with: rows that no term fills stay, and what they
    are multiplied with is zero.

    Raises
    ------
    ValueError
        If the terms have more ranks than the adapter.
    """
    found: dict[str, Tensor] = {}
    of_layers = _by_layer(terms)
    for name in (n for n in usual if ".lora_A." in n):
        theirs = of_layers.get(name.rpartition(".lora_A.")[0], [])
        whole, other = usual[name].clone(), torch.zeros_like(usual[_partner(name)])
        if (used := rank * len(theirs)) > len(whole):
            raise ValueError(f"{name}: {used} ranks of terms, {len(whole)} are there")
        if theirs:
            whole[:used] = torch.cat([terms[n] for n in theirs])
            # Scaled by alpha over the larger rank, they are to be what they were.
            columns = torch.cat([terms[_partner(n)] for n in theirs], dim=1)
            other[:, :used] = columns * (len(whole) / rank)
        found |= {name: whole, _partner(name): other}
    return found


def _by_layer(terms: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the names of the first factors of each layer, sorted, by the layer's path."""
    found: dict[str, list[str]] = {}
    for name in sorted(n for n in terms if ".lora_A." in n):
        found.setdefault(name.rpartition(".lora_A.")[0], []).append(name)
    return found


def _partner(name: str) -> str:
    """Return the name of the other factor."""
    return name.replace(".lora_A.", ".lora_B.")
