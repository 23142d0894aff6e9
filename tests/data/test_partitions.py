"""A partition deals every sample to exactly one node, the same way for one seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig
from mfd_flower.data import load_federation
from mfd_flower.data.partitions import partition_indices

LABELS = np.random.default_rng(0).integers(10, size=400)
KINDS = st.one_of(
    st.builds(DataConfig, partition=st.just("iid"), nodes=st.integers(1, 20)),
    st.builds(
        DataConfig,
        partition=st.just("dirichlet"),
        nodes=st.integers(1, 12),
        alpha=st.floats(0.3, 100),
    ),
    st.builds(
        DataConfig,
        partition=st.just("classes"),
        nodes=st.integers(5, 20),
        classes=st.integers(2, 10),
    ),
)


@given(config=KINDS, seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_every_sample_has_one_owner_and_no_node_is_empty(config: DataConfig, seed: int) -> None:
    try:
        shares = partition_indices(LABELS, 10, config, seed)
    except ConfigError:
        reject()
    assert len(shares) == config.nodes
    assert min(len(share) for share in shares) > 0
    assigned = np.concatenate(shares)
    assert len(assigned) == len(set(assigned.tolist()))
    if config.partition != "classes":
        assert len(assigned) == len(LABELS)
    again = partition_indices(LABELS, 10, config, seed)
    assert all(np.array_equal(a, b) for a, b in zip(shares, again, strict=True))


@pytest.mark.parametrize("classes", [1, 2, 5, 10])
def test_a_node_holds_as_many_classes_as_asked(classes: int) -> None:
    config = DataConfig(partition="classes", classes=classes, nodes=10)
    for share in partition_indices(LABELS, 10, config, 0):
        assert len(set(LABELS[share].tolist())) <= classes


def test_small_alpha_is_more_skewed() -> None:
    def mean_largest_share(alpha: float) -> float:
        config = DataConfig(partition="dirichlet", alpha=alpha, nodes=5)
        shares = partition_indices(LABELS, 10, config, 1)
        counts = [np.bincount(LABELS[share], minlength=10) for share in shares]
        return float(np.mean([c.max() / c.sum() for c in counts]))

    assert mean_largest_share(0.3) > mean_largest_share(100.0) + 0.1


@pytest.mark.parametrize(
    ("settings_", "field", "accepted"),
    [
        ({"partition": "classes", "classes": 11}, "data.classes", "digits has 10"),
        ({"nodes": 31, "train_samples": 30}, "data.nodes", "at most 30"),
        ({"train_samples": 1790, "test_samples": 10}, "data.train_samples", "at most 1787"),
        ({"test_samples": 1790}, "data.test_samples", "each of 10 nodes"),
        (
            {"partition": "dirichlet", "alpha": 0.01, "nodes": 40, "train_samples": 60},
            "data.alpha",
            "without samples",
        ),
        ({"name": "cifar"}, "data.name", "mnist5k, digits"),
    ],
)
def test_impossible_federation_is_refused(
    settings_: dict[str, object], field: str, accepted: str
) -> None:
    config = DataConfig(**{"name": "digits", "test_samples": 100, **settings_})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"^{field} = ") as caught:
        load_federation(config, 0)
    assert accepted in str(caught.value)


def test_test_set_is_held_out() -> None:
    federation = load_federation(
        DataConfig(name="digits", nodes=4, train_samples=0, test_samples=300, validation=0.0), 5
    )
    trained = set(np.concatenate(federation.shares).tolist())
    assert len(federation.test) == 300
    assert trained.isdisjoint(federation.test.tolist())
    assert len(trained) == 1797 - 300


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_node_holds_out_its_share_of_what_it_has_and_always_trains_on_something(
    share: float,
) -> None:
    settings_ = {"name": "digits", "nodes": 20, "train_samples": 0, "partition": "dirichlet"}
    plain, held = (
        load_federation(DataConfig(**settings_, alpha=0.5, validation=validation), 5)  # type: ignore[arg-type]
        for validation in (0.0, share)
    )
    for all_of_it, trained, out in zip(plain.shares, held.shares, held.held_out, strict=True):
        assert sorted([*trained, *out]) == sorted(all_of_it)
        assert len(trained) > 0
        assert abs(len(out) - share * len(all_of_it)) <= 1
    assert held.part("validation").tolist() == [i for out in held.held_out for i in out]
