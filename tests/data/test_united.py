"""Several sets as one: nothing of them is lost but what is more than the smallest has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.config import DataConfig
from mfd_flower.data import ImageSet, load_set
from mfd_flower.data.federation import load_federation
from mfd_flower.data.united import tasks_of, united


@st.composite
def sets(draw: Any) -> dict[str, ImageSet]:
    found = {}
    for number in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(1, 12), st.integers(1, 9), st.sampled_from([1, 3])))
        classes = draw(st.integers(1, 4))
        count, side, channels = size
        labels = np.arange(count, dtype=np.int64) % classes
        # A picture of one colour is that at every size.
        values = np.arange(count, dtype=np.uint8) + 50 * number
        images = np.broadcast_to(values[:, None, None, None], (count, side, side, channels))
        names = tuple(f"c{c}" for c in range(classes))
        found[f"set{number}"] = ImageSet(np.ascontiguousarray(images), labels, names)
    return found


@settings(max_examples=40, deadline=None)
@given(each=sets())
def test_every_picture_keeps_its_class_and_its_set(each: dict[str, ImageSet]) -> None:
    found = united(each)
    assert found.is_sound
    least = min(len(one.labels) for one in each.values())
    tasks = np.array(tasks_of(found.classes))[found.labels]
    assert {name: int((tasks == name).sum()) for name in each} == dict.fromkeys(each, least)
    for image, label, task in zip(found.images, found.labels, tasks, strict=True):
        assert image.min() == image.max()
        own = each[task]
        (place,) = np.flatnonzero(own.images[:, 0, 0, 0] == image[0, 0, 0])
        assert found.classes[label] == f"{task}/{own.classes[own.labels[place]]}"


def test_sets_by_name_are_as_many_of_each() -> None:
    found = load_set("mnist5k+digits")
    assert found.images.shape == (2 * 1797, 28, 28, 1)
    assert len(found.classes) == 20
    assert found.classes[0] == "mnist5k/0"
    assert np.bincount(found.labels // 10).tolist() == [1797, 1797]


@settings(max_examples=15, deadline=None)
@given(nodes=st.integers(2, 9), seed=st.integers(0, 5))
def test_each_node_has_one_task_and_each_task_as_many_nodes(nodes: int, seed: int) -> None:
    config = DataConfig(
        name="mnist5k+digits",
        nodes=nodes,
        partition="tasks",
        train_samples=300,
        test_samples=50,
        validation=0.0,
    )
    federation = load_federation(config, seed)
    found = [federation.task(node) for node in range(nodes)]
    assert all(found)
    counts = [found.count(task) for task in set(found)]
    assert len(counts) == 2
    assert max(counts) - min(counts) <= 1
    whole = np.sort(np.concatenate(federation.shares))
    assert len(whole) == len(np.unique(whole)) == 300
    assert not set(whole) & set(federation.test)
    assert federation.holders[0] == "n0 digits"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"name": "mnist5k+mnist5k"}, "data.name = 'mnist5k.mnist5k': several sets: accepted each"),
        ({"name": "mnist5k+digits", "path": "x"}, "several sets: accepted without data.path"),
        ({"name": "mnist5k+nothing"}, "data.name = 'mnist5k.nothing': accepted: mnist5k"),
        (
            {"name": "mnist5k+digits", "nodes": 1},
            "data.nodes = 1: at least 2, the tasks of mnist5k",
        ),
        (
            {"name": "mnist5k+digits", "nodes": 40, "train_samples": 40},
            "data.train_samples = 40: at least one sample of",
        ),
    ],
)
def test_what_cannot_be_dealt_is_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_federation(DataConfig(partition="tasks", **data), 1)
