"""Print what models of `experiments/base_stations.toml` choose as beams, as Markdown.

    mfd reproduce base_stations && python experiments/beams_table.py out/base_stations

Of each final model on the test set: how often the best beam is its first choice, or among its first
three; how much power is lost by the first choice, and by the best of three that are tried. Where
each node has its own model it is their mean. Mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mfd_flower.accounting.summary import spread
from mfd_flower.config import RunConfig
from mfd_flower.data.channel_sets import beam_soundings
from mfd_flower.data.samples import Batches
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.results import Results

COLUMNS = ("top-1", "top-3", "loss, dB", "loss of 3, dB")


def measured(run: RunConfig, model: Path) -> tuple[float, ...]:
    """Return `COLUMNS` of a model on the test set of a run."""
    whole = TrainedModel.load(model).assembled()
    federation = federation_of(run)
    samples = federation.samples(federation.test, federation.spec)
    with torch.inference_mode():
        logits = torch.cat([whole(inputs) for inputs, _ in Batches(samples, 256)])
    order = logits.argsort(1, descending=True).numpy()
    found = beam_soundings(run.data.options).at(federation.test)
    right = order[:, :3] == found.best_beam[:, None]
    losses_db = found.loss_db(order[:, :1]), found.loss_db(order[:, :3])
    shares = right[:, 0], right.any(1)
    return tuple(float(np.mean(each)) for each in (*shares, *losses_db))


def settings_of(results: Results, run: Mapping[str, Any]) -> RunConfig:
    """Return the settings of a finished run."""
    cell = [run[key] for key in ("scenario", "strategy", "seed")]
    for planned in results.config["runs"]:
        flat = planned["settings"]
        if [planned["scenario"], planned["strategy"], flat["seed"]] == cell:
            return RunConfig.from_flat(flat)
    raise LookupError(cell)


def main() -> None:
    """Print one table a scenario of beams."""
    parser = argparse.ArgumentParser(description="What models choose as beams.")
    parser.add_argument("folder", type=Path, help="with results.json and models")
    folder = parser.parse_args().folder
    results = Results.load(folder)
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for run in results.runs:
        settings = settings_of(results, run)
        if settings.data.name == "beams":
            paths = [run["model"]] if run["model"] else run["models"].values()
            found = [measured(settings, folder / path) for path in paths]
            means = tuple(float(each) for each in np.mean(found, axis=0))
            rows.setdefault((run["scenario"], run["strategy"]), []).append(means)
    for scenario in dict.fromkeys(scenario for scenario, _ in rows):
        print(f"| {scenario} | {' | '.join(COLUMNS)} |\n| --- | --- | --- | --- | --- |")
        for (here, label), seeds in rows.items():
            if here == scenario:
                spreads = [spread(list(column)) for column in zip(*seeds, strict=True)]
                cells = [f"{each['mean']:.3f} ± {each['std']:.3f}" for each in spreads]
                print(f"| {label} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    main()
