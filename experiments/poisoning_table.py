"""Print the table of `experiments/poisoning.toml` from its results, as Markdown.

    mfd reproduce poisoning && python experiments/poisoning_table.py out/poisoning

Final accuracy as mean and standard deviation over seeds, and how far it is below that of the same
strategy without attack; for a backdoor also the share of triggered images that go to the
attacker's class. Versions are counted over all seeds: refused of poisoned, refused of honest.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mfd_flower.accounting.summary import spread
from mfd_flower.results import Results

CLEAN = "no attack"
Runs = Sequence[Mapping[str, Any]]


def final(runs: Runs, name: str = "accuracy") -> dict[str, float]:
    """Return mean and spread of a metric at the last point."""
    return spread([run["points"][-1][name] for run in runs])


def accuracy_cell(runs: Runs, clean: Runs) -> str:
    """Return final accuracy, points lost to the attack, and a backdoor's success."""
    if not runs:
        return "-"
    found = final(runs)
    words = f"{found['mean']:.3f} ± {found['std']:.3f}"
    if clean and runs is not clean:
        words += f" ({100 * (found['mean'] - final(clean)['mean']):+.1f})"
    if "attack_success" in runs[0]["points"][-1]:
        words += f", triggered {final(runs, 'attack_success')['mean']:.2f}"
    return words


def refused_cell(runs: Runs, kind: str) -> str:
    """Return how many versions of honest or malicious authors were refused, of how many."""
    counts = [run["admission"] for run in runs if "admission" in run]
    refused = sum(count[f"{kind}_refused"] for count in counts)
    total = refused + sum(count[f"{kind}_accepted"] for count in counts)
    return f"{refused} of {total}" if total else "-"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="Table of the poisoning experiment.")
    parser.add_argument("folder", type=Path, help="with results.json")
    runs = Results.load(parser.parse_args().folder).runs
    names = list(dict.fromkeys(run["strategy"] for run in runs))

    def cell(scenario: str, name: str) -> Runs:
        return [run for run in runs if (run["scenario"], run["strategy"]) == (scenario, name)]

    clean = {name: cell(CLEAN, name) for name in names}
    print(f"| attack, malicious nodes | {' | '.join(names)} | poisoned refused | honest refused |")
    print(f"| {' | '.join('---' for _ in range(len(names) + 3))} |")
    for scenario in dict.fromkeys(run["scenario"] for run in runs):
        cells = {name: clean[name] if scenario == CLEAN else cell(scenario, name) for name in names}
        here = [run for name in names for run in cells[name]]
        row = [accuracy_cell(cells[name], clean[name]) for name in names]
        row += [refused_cell(here, kind) for kind in ("poisoned", "honest")]
        print(f"| {scenario} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
