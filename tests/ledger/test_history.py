"""Histories are short, sketches keep directions, and nothing forged gets in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.ledger.history import SKETCH_SIZE, WINDOW, AuditError, History, Update


def history_of(norms: list[float]) -> History:
    history = History()
    for norm in norms:
        change = {"w": torch.tensor([norm, 0.0], dtype=torch.float64)}
        history = history.after(Update.between({"w": torch.zeros(2)}, change))
    return history


def test_norm_is_over_the_share_passed_on() -> None:
    start, end = {"w": torch.zeros(4)}, {"w": torch.ones(4)}
    half = {"w": torch.full((4,), 0.5)}
    assert Update.between(start, half, share=0.5).norm == pytest.approx(
        Update.between(start, end).norm
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 50), angle=st.floats(0, math.pi))
def test_sketches_keep_cosines(seed: int, angle: float) -> None:
    """Within five of their standard errors."""
    basis = torch.randn(4000, 2, generator=torch.Generator().manual_seed(seed)).double()
    basis = torch.linalg.qr(basis).Q
    one, two = basis[:, 0], math.cos(angle) * basis[:, 0] + math.sin(angle) * basis[:, 1]
    zero = {"w": torch.zeros(4000)}
    history = History().after(Update.between(zero, {"w": one}))
    found = history.cosine(Update.between(zero, {"w": two}))
    assert found == pytest.approx(math.cos(angle), abs=5 / math.sqrt(SKETCH_SIZE))


def test_the_order_of_tensors_does_not_matter_but_names_do() -> None:
    a, b = torch.linspace(-1, 1, 50), torch.linspace(0, 3, 50)
    zero = {"a": torch.zeros(50), "b": torch.zeros(50)}
    one = Update.between(zero, {"a": a, "b": b})
    assert np.array_equal(one.direction, Update.between(zero, {"b": b, "a": a}).direction)
    assert not np.allclose(one.direction, Update.between(zero, {"a": b, "b": a}).direction)


@settings(max_examples=60, deadline=None)
@given(norms=st.lists(st.floats(1e-60, 1e60), max_size=WINDOW + 5))
def test_history_is_bounded_and_survives_the_wire(norms: list[float]) -> None:
    history = history_of(norms)
    assert len(history.log_norms) <= WINDOW
    assert History.from_fields(history.fields()) == history


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"log_norms": [math.nan]}, r"log_norms\[0\] = nan"),
        ({"log_norms": [math.inf]}, r"log_norms\[0\] = inf"),
        ({"log_norms": [True]}, r"log_norms\[0\] = True"),
        ({"log_norms": "0"}, "log_norms = '0'"),
        ({"log_norms": [0.0] * (WINDOW + 1)}, "at most 64"),
        ({"log_norms": None}, "log_norms = None"),
        ({"log_norms": []}, "direction = 128"),
        ({"direction": [0.0]}, "direction = 1:"),
        ({"direction": [2.0] * SKETCH_SIZE}, "at least -1 and at most 1"),
    ],
)
def test_a_forged_history_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(AuditError, match=text):
        History.from_fields({**history_of([3.0]).fields(), **changes})
