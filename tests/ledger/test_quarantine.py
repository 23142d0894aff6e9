"""Two refusals in a row drop an author, and only readmission brings it back."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.ledger.quarantine import Quarantine

EVENTS = ("refused", "accepted", "readmitted")
events = st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(["n0", "n1"])), max_size=20)


def after(log: list[tuple[str, str]]) -> Quarantine:
    quarantine = Quarantine()
    for event, author in log:
        quarantine = getattr(quarantine, event)(author)
    return quarantine


@settings(max_examples=60, deadline=None)
@given(log=events)
def test_dropped_from_the_second_refusal_in_a_row_until_readmission(
    log: list[tuple[str, str]],
) -> None:
    for author in ("n0", "n1"):
        story = [event for event, name in log if name == author]
        since = (
            story[len(story) - story[::-1].index("readmitted") :]
            if "readmitted" in story
            else story
        )
        in_a_row = any(a == b == "refused" for a, b in itertools.pairwise(since))
        assert after(log).is_dropped(author) == in_a_row
