"""What the experimenter reads from a ledger: versions, counts, and a file that verifies."""

from __future__ import annotations

from pathlib import Path

from mfd_flower.ledger import Chains, Ledger, suffix
from mfd_flower.ledger.example import KINDS, extend_example
from mfd_flower.runtime.ledgers import admission_counts, entries_of, versions_of, write_ledger

RUN = {"scenario": "base", "strategy": "walk, 2 walkers", "seed": 0}


def example_lines(entries: int = 12) -> str:
    chains = Chains()
    extend_example(chains, entries)
    return suffix(chains)


def test_versions_name_their_parents_and_who_refused_them() -> None:
    versions = versions_of(entries_of(example_lines()))
    assert len(versions) == 12 - len(KINDS)
    known = {version["version"] for version in versions}
    assert all(parent in known for version in versions for parent in version["parents"])
    (refused,) = [version for version in versions if version["reason"]]
    place = next(place for place, kind in KINDS.items() if kind == "refusal")
    assert (refused["hop"], refused["refused_by"]) == (place - 1, f"n{place % 4}")


def test_counts_by_hand() -> None:
    made = [("n0", ""), ("n1", "loss"), ("n2", ""), ("n1", "norm"), ("n2", "loss")]
    versions = [{"author": a, "reason": r, "parents": ["x"]} for a, r in made]
    genesis = {"author": "n1", "reason": "", "parents": []}
    untaken = [("w0", 4, "n1"), ("w0", 7, "n3")]
    assert admission_counts([genesis, *versions], {"n1"}, untaken) == {
        "honest_accepted": 2,
        "honest_refused": 2,
        "poisoned_accepted": 0,
        "poisoned_refused": 3,
    }


def test_the_file_of_a_run_verifies_and_is_replaced_by_a_later_start(tmp_path: Path) -> None:
    for entries in (12, 5):
        name = write_ledger(tmp_path, RUN, 3, example_lines(entries))
        with Ledger(tmp_path / name) as ledger:
            assert ledger.verify() == entries
            assert ledger.suffix() == example_lines(entries)
    assert len(list((tmp_path / "ledgers").glob("*.sqlite"))) == 1
