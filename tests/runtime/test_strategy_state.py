"""What Flower's own loop keeps between rounds is written down, or it is said that it cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from mfd_flower.records import from_bytes, to_bytes
from mfd_flower.runtime.strategy_state import load_state, state_of

KEPT: dict[str, Any] = {
    "number": 3,
    "table": {"a": [1, 2.5, None]},
    "array": np.arange(6.0).reshape(2, 3),
    "arrays": [np.ones(2), np.zeros(3, np.int64)],
    "named arrays": {"w": np.array(2.0), "b": np.ones(1)},
    "tensor": torch.arange(4, dtype=torch.int16),
    "tensors": [torch.ones(2), torch.tensor(3.0)],
    "named tensors": {"w": torch.eye(2)},
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_strategy_keeps_comes_back_as_it_was(name: str) -> None:
    old, new = FedAvg(), FedAvg()
    vars(old)["kept"] = KEPT[name]
    state = state_of(old, FedAvg())
    assert state is not None
    load_state(new, from_bytes(to_bytes(state)))
    found, kept = vars(new)["kept"], KEPT[name]
    assert (type(found), repr(found)) == (type(kept), repr(kept))


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1: "one"},
        {1: np.ones(1)},
        [torch.ones(2), "text"],
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, requires_grad=True),
        np.array([object()]),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_written_down_is_no_state(value: Any) -> None:
    """And it ends no run, whatever its comparison with another one does."""
    strategy = FedAvg()
    vars(strategy)["kept"] = value
    assert state_of(strategy, FedAvg()) is None
