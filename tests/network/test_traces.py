"""Recorded places: read as they are, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mfd_flower.checks import ConfigError
from mfd_flower.network.traces import Trace

HEAD = "node,time_s,x_m,y_m\n"


def test_between_two_moments_a_node_is_on_the_straight_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(HEAD + "1,0,5,5\n0,10,0,100\n0,30,200,0\n")
    trace = Trace.load(tmp_path / "t.csv", 2)
    for at_s, expected in ((0, [0, 100]), (15, [50, 75]), (30, [200, 0]), (99, [200, 0])):
        np.testing.assert_allclose(trace.places_m(at_s), [expected, [5, 5]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line: node,time_s,x_m,y_m"),
        (HEAD, "no line of node 0"),
        (HEAD + "0,0,0,0\n", "no line of node 1"),
        (HEAD + "0,0,0\n", "line 2 is no node,time_s,x_m,y_m with times from 0 on"),
        (HEAD + "0,-1,0,0\n", "line 2 is no node,time_s,x_m,y_m with times from 0 on"),
        (HEAD + "0,0,inf,0\n", "line 2 is no node,time_s,x_m,y_m with times from 0 on"),
        (HEAD + "2,0,0,0\n", "line 2: node must be 0 to 1"),
        (HEAD + "0.5,0,0,0\n", "line 2: node must be 0 to 1"),
        (HEAD + "0,0,0,0\n0,0,1,1\n1,0,0,0\n", "node 0 is there twice at 0 s"),
        (
            HEAD + "0,0,0,0\n1,0,0,0\n1,20,0,0\n1,81,0,0\n",
            "node 1 has a gap from 20 to 81 s; accepted: at most 60 s",
        ),
    ],
)
def test_a_bad_trace_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        Trace.load(path, 2)
    assert str(refused.value) == f"trace = '{path}': {said}"


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not readable"):
        Trace.load(tmp_path / "none.csv", 2)
