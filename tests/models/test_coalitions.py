"""What samples are worth to a regression: each coalition against one that is fitted on them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mfd_flower.models.closed_form import ridge
from mfd_flower.models.coalitions import contributions_of_parts, error_falls
from mfd_flower.models.sums import Sums

CLASSES = 3
Samples = tuple[np.ndarray, np.ndarray]


def drawn(nodes: int, seed: int = 0) -> dict[str, Samples]:
    """Samples around a mean of each class, more on later nodes."""
    rng = np.random.default_rng(seed)
    means = rng.integers(-5, 6, (CLASSES, 4))
    labels = [rng.integers(0, CLASSES, 10 + 5 * node) for node in range(nodes)]
    return {f"n{i}": (means[y] + rng.integers(-3, 4, (len(y), 4)), y) for i, y in enumerate(labels)}


def parts_of(samples: dict[str, Samples]) -> dict[str, Sums]:
    return {name: Sums.of(x, y, CLASSES) for name, (x, y) in samples.items()}


def error_on_all(samples: dict[str, Samples], coalition: tuple[str, ...]) -> float:
    """Mean squared error over all samples, computed from them and not from sums."""
    x, y = (np.concatenate(each) for each in zip(*samples.values(), strict=True))
    logits = np.zeros((len(x), CLASSES))
    if coalition:
        own = [np.concatenate(e) for e in zip(*(samples[n] for n in coalition), strict=True)]
        logits = ridge(Sums.of(*own, CLASSES)).logits(x)
    return float(((logits - np.eye(CLASSES)[y]) ** 2).sum(1).mean())


def test_a_coalition_is_worth_what_a_regression_on_its_samples_lowers_the_error_by() -> None:
    samples = drawn(4)
    value = error_falls(parts_of(samples))
    for size in range(5):
        for coalition in itertools.combinations(samples, size):
            wanted = 1.0 - error_on_all(samples, coalition)
            assert value(frozenset(coalition)) == pytest.approx(wanted, abs=1e-9)


def test_shapley_values_are_means_over_all_orders_and_add_up_to_the_whole_fall() -> None:
    samples = drawn(4)
    rows = {row["node"]: row for row in contributions_of_parts(parts_of(samples), 0)}
    for name, row in rows.items():
        gains = []
        for order in itertools.permutations(samples):
            end = order.index(name)
            before, after = (error_on_all(samples, order[:n]) for n in (end, end + 1))
            gains.append(before - after)
        assert row["shapley"] == pytest.approx(np.mean(gains), abs=1e-9)
        others = tuple(n for n in samples if n != name)
        assert row["squared_error_without"] == pytest.approx(error_on_all(samples, others))
        assert row["squared_error_with"] == pytest.approx(error_on_all(samples, tuple(samples)))
        assert row["samples"] == len(samples[name][1])
    total = sum(row["shapley"] for row in rows.values())
    assert total == pytest.approx(1.0 - error_on_all(samples, tuple(samples)))


def test_nodes_with_the_same_samples_are_worth_the_same() -> None:
    samples = drawn(3)
    samples["n9"] = samples["n0"]
    rows = {row["node"]: row for row in contributions_of_parts(parts_of(samples), 0)}
    assert rows["n9"]["shapley"] == pytest.approx(rows["n0"]["shapley"])
    assert rows["n9"]["squared_error_without"] == rows["n0"]["squared_error_without"]


def test_a_node_without_samples_is_worth_nothing() -> None:
    parts = parts_of(drawn(3)) | {"n3": Sums.nothing(4, CLASSES)}
    (row,) = [row for row in contributions_of_parts(parts, 0) if row["node"] == "n3"]
    assert row["shapley"] == pytest.approx(0.0, abs=1e-12)
    assert row["squared_error_without"] == row["squared_error_with"]


def test_of_many_nodes_the_value_is_estimated_and_says_how_well() -> None:
    parts = parts_of(drawn(14))
    rows = contributions_of_parts(parts, 0)
    whole = 1.0 - rows[0]["squared_error_with"]
    assert sum(row["shapley"] for row in rows) == pytest.approx(whole)
    assert all(0 < row["shapley_error"] < 0.2 for row in rows)
    assert rows == contributions_of_parts(parts, 0)
