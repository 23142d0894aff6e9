"""Two refusals in a row drop an author, and only readmission brings it back."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.walk.node_ledger import dropped

EVENTS = ("refusal", "accepted", "readmission")
events = st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(["n0", "n1"])), max_size=20)


def entries(log: list[tuple[str, str]]) -> list[Any]:
    """Return entries of a chain in which that happens, with what it takes for a version."""
    made: list[Any] = []

    def version(author: str, parent: str) -> str:
        name = f"v{len(made)}"
        told = {"chain": "c", "version": name, "parents": (parent,), "author": author}
        made.append(SimpleNamespace(kind="version", **told))
        return name

    for event, author in log:
        if event == "accepted":
            version("n9", version(author, "none"))
        else:
            made.append(SimpleNamespace(kind=event, subject=author, author="n9"))
    return made


@settings(max_examples=60, deadline=None)
@given(log=events)
def test_dropped_from_the_second_refusal_in_a_row_until_readmission(
    log: list[tuple[str, str]],
) -> None:
    for author in ("n0", "n1"):
        story = [event for event, name in log if name == author]
        since = (
            story[len(story) - story[::-1].index("readmission") :]
            if "readmission" in story
            else story
        )
        in_a_row = any(a == b == "refusal" for a, b in itertools.pairwise(since))
        assert (author in dropped(entries(log))) == in_a_row
