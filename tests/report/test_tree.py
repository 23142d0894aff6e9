"""The tree shows every version once, beside its parents, and says what the ledger says."""

from __future__ import annotations

import re
from typing import Any

from mfd_flower.report.tree import REFUSED, version_tree


def version(name: str, hop: int, *parents: str, **fields: Any) -> dict[str, Any]:
    return {
        "version": name,
        "parents": list(parents),
        "walker": "w0",
        "author": f"n{hop}",
        "hop": hop,
        "samples": 10 * hop,
        "accuracy_before": None,
        "accuracy_after": None,
        "refused_by": "",
        "reason": "",
        **fields,
    }


WALK = [
    version("aa", 0),
    version("bb", 1, "aa", accuracy_before=0.25, accuracy_after=0.5),
    version("cc", 2, "bb", refused_by="n7", reason="loss: 5 > 3 & <more>"),
    version("dd", 2, "bb"),
]


def test_every_version_and_every_parent_is_drawn() -> None:
    drawn = str(version_tree(WALK))
    assert drawn.count("<circle") == len(WALK)
    assert drawn.count('fill="none"') == sum(len(v["parents"]) for v in WALK)
    assert drawn.count("stroke-dasharray") == 1
    assert drawn.count(REFUSED) == 3  # edge, circle and cross


def test_pointing_tells_the_entry() -> None:
    titles = re.findall(r"<title>(.*?)</title>", str(version_tree(WALK)))
    assert "0.250 -&gt; 0.500" in titles[1]
    assert "refused by n7 (loss: 5 &gt; 3 &amp; &lt;more&gt;)" in titles[2]
    for title, entry in zip(titles, WALK, strict=True):
        assert title.startswith(f"hop {entry['hop']}, ")
        assert f"version {entry['version']}" in title


def test_a_merge_reaches_into_the_other_lane() -> None:
    others = [version("aa", 0, walker="w1"), version("ee", 1, "aa", "bb", walker="w1")]
    drawn = str(version_tree([*WALK, *others]))
    paths = re.findall(r'd="M(\d+),(\d+) L(\d+),(\d+)"', drawn)
    lanes = [(start, end) for _, start, _, end in paths[-2:]]
    assert lanes[0][0] == lanes[0][1]
    assert lanes[1][0] != lanes[1][1]


def test_the_page_needs_nothing_from_outside() -> None:
    assert not re.search(r"(href|src)=", str(version_tree(WALK)))
    assert "http" not in str(version_tree(WALK)).replace("http://www.w3.org/2000/svg", "")
