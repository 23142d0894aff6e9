"""Two refusals in a row drop an author, and only readmission brings it back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.ledger.history import AuditError
from mfd_flower.ledger.standing import Standing

EVENTS = ("refused", "accepted", "readmitted")
events = st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(["n0", "n1"])), max_size=20)


def after(log: list[tuple[str, str]]) -> Standing:
    standing = Standing()
    for event, author in log:
        standing = getattr(standing, event)(author)
    return standing


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


@settings(max_examples=60, deadline=None)
@given(log=events)
def test_survives_the_wire(log: list[tuple[str, str]]) -> None:
    assert Standing.from_fields(after(log).fields()) == after(log)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "authors = None"),
        ({"authors": ["n0"], "refusals": []}, "refusals = "),
        ({"authors": ["n0"], "refusals": [0]}, "refusals = 0"),
        ({"authors": ["n0"], "refusals": [True]}, "refusals = True"),
        ({"authors": ["n0", "n0"], "refusals": [1, 1]}, "every author once"),
        ({"authors": [""], "refusals": [1]}, "1 to 64 characters"),
        ({"authors": [7], "refusals": [1]}, "1 to 64 characters"),
    ],
)
def test_a_forged_standing_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(AuditError, match=text):
        Standing.from_fields(fields)
