"""Print the table of `experiments/algebra.toml` from its results, as Markdown.

    mfd reproduce algebra && python experiments/algebra_table.py out/algebra

Final accuracy as mean and standard deviation over seeds, without admission and with it; refused
versions of malicious and of honest nodes over all seeds, with admission, and for what; who of the
honest nodes is missing at the end, in mean over seeds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from poisoning_table import Runs, accuracy_cell, refused_cell

from mfd_flower.results import Results

NAMES = ("ledger", "ledger, admission")


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
        row = [accuracy_cell(cell, []) for cell in (plain, judged)]
        row += [wire_cell(plain), wire_cell(judged)]
        row += [refused_cell(judged, kind) for kind in ("poisoned", "honest")]
        missing = [sum(len(run["missing"]) for run in cell) / len(cell) for cell in (plain, judged)]
        row += [reasons_cell(judged), " / ".join(f"{mean:.1f}" for mean in missing)]
        print(f"| {scenario} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
