"""Tunables: what is trained, sent and saved. One predicate decides all three."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


def named_tunables(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that train; nothing else is ever sent or saved."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def get_tunables(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every tunable by name, detached, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in named_tunables(model)}


def set_tunables(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite the tunables in place.

    Raises ValueError if a name is missing or unknown, or a shape differs, and changes nothing then.
    """
    own = dict(named_tunables(model))
    if missing := own.keys() - tensors.keys():
        raise ValueError(f"tunables missing: {', '.join(sorted(missing))}")
    if unknown := tensors.keys() - own.keys():
        raise ValueError(f"not tunables of this model: {', '.join(sorted(unknown))}")
    for name, parameter in own.items():
        got, wanted = tuple(tensors[name].shape), tuple(parameter.shape)
        if got != wanted:
            raise ValueError(f"tunable {name}: shape {got}, this model has {wanted}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
