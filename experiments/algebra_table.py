"""Print the table of `experiments/algebra.toml` from its results, as Markdown.

    mfd reproduce algebra && python experiments/algebra_table.py out/algebra

Final accuracy as mean and standard deviation over seeds, without admission and with it; refused
versions of malicious and of honest nodes over all seeds, with admission, and for what; who of the
honest nodes is missing at the end, in mean over seeds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mfd_flower.accounting.summary import spread
from mfd_flower.results import Results

NAMES = ("ledger", "ledger, admission")
Runs = Sequence[Mapping[str, Any]]


def accuracy_cell(runs: Runs) -> str:
    """Return final accuracy, and for a backdoor how many triggered images go to its class."""
    ends = [run["points"][-1] for run in runs]
    found = spread([end["accuracy"] for end in ends])
    words = f"{found['mean']:.3f} ± {found['std']:.3f}"
    if "attack_success" in ends[0]:
        words += f", triggered {spread([end['attack_success'] for end in ends])['mean']:.2f}"
    return words


def refused_cell(runs: Runs, kind: str) -> str:
    """Return how many versions of honest or malicious authors were refused, of how many."""
    refused, accepted = (
        sum(run["admission"][f"{kind}_{end}"] for run in runs) for end in ("refused", "accepted")
    )
    return f"{refused} of {refused + accepted}" if refused + accepted else "-"


def reasons_cell(runs: Runs) -> str:
    """Return what versions were refused for, the most frequent first."""
    reasons = [version["reason"] for run in runs for version in run.get("versions", [])]
    words = (reason.replace(" =", ":").partition(":")[0] for reason in reasons if reason)
    return ", ".join(word for word, _ in Counter(words).most_common()) or "-"


def wire_cell(runs: Runs) -> str:
    """Return the wire of a tour in kB, in mean over seeds."""
    sizes = [run["points"][-1]["bytes"]["wire"] for run in runs]
    return f"{sum(sizes) / len(sizes) / 1000:.1f}"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="Table of the algebra experiment.")
    parser.add_argument("folder", type=Path, help="with results.json")
    runs = Results.load(parser.parse_args().folder).runs
    columns = (*NAMES, "kB", "kB, admission", "lies refused", "honest refused", "for", "missing")
    print(f"| labels, attack | {' | '.join(columns)} |")
    print(f"| {' | '.join('---' for _ in range(len(columns) + 1))} |")
    for scenario in dict.fromkeys(run["scenario"] for run in runs):
        here = [run for run in runs if run["scenario"] == scenario]
        plain, judged = ([r for r in here if r["strategy"] == name] for name in NAMES)
        row = [accuracy_cell(cell) for cell in (plain, judged)]
        row += [wire_cell(plain), wire_cell(judged)]
        row += [refused_cell(judged, kind) for kind in ("poisoned", "honest")]
        missing = [sum(len(run["missing"]) for run in cell) / len(cell) for cell in (plain, judged)]
        row += [reasons_cell(judged), " / ".join(f"{mean:.1f}" for mean in missing)]
        print(f"| {scenario} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
