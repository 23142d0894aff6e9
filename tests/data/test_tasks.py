"""What a node's data are for follows from the names of the classes that it has."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.data import ImageSet
from mfd_flower.data.federation import Federation

CLASSES = ("tool/saw", "flag/chile", "tool/hammer", "flag/cuba", "cat", "dog", "tool/saw/old")
TASKS = ("tool", "flag", "tool", "flag", "", "", "tool")
NOBODY = np.array([], np.int64)
held = st.lists(st.sets(st.integers(0, len(CLASSES) - 1), min_size=1), min_size=2, max_size=5)


def dealt(nodes: list[set[int]], classes: tuple[str, ...] = CLASSES) -> Federation:
    """A federation whose nodes have one picture of each of their classes."""
    labels = np.array([label for node in nodes for label in sorted(node)], np.int64)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    ends = np.cumsum([len(node) for node in nodes])[:-1]
    shares = np.split(np.arange(len(labels)), ends)
    return Federation(ImageSet(images, labels, classes), shares, [NOBODY] * len(nodes), NOBODY)


@given(nodes=held)
def test_nodes_tell_the_same_if_and_only_if_they_have_one_task_in_common(
    nodes: list[set[int]],
) -> None:
    federation = dealt(nodes)
    for a, first in enumerate(nodes):
        tasks = {TASKS[label] for label in first}
        assert (federation.task(a) == "") == (len(tasks) > 1)
        for b, second in enumerate(nodes):
            if federation.task(a) and federation.task(b):
                same = tasks == {TASKS[label] for label in second}
                assert (federation.task(a) == federation.task(b)) == same


def test_a_set_without_slashes_is_one_task() -> None:
    federation = dealt([{0}, {1, 2}], ("cat", "dog", "cow"))
    assert federation.task(0) == federation.task(1) != ""


def test_another_sets_classes_are_another_task() -> None:
    """Even if they have some of their names in common, and a node nothing but those."""
    cats, cows = dealt([{0}], ("cat", "dog")), dealt([{0}], ("cat", "cow"))
    assert cats.task(0) != cows.task(0)
