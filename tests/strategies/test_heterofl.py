"""HeteroFL: each entry is the mean over the nodes that have it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.node import initial_tunables
from mfd_flower.records import tensors_of
from mfd_flower.runtime.runner import run_locally
from strategies.heterofl import HeteroFL
from tests.harness import trial

WEAK = {"name": "W-1", "share": 0.5, "model": {"num_heads": 1, "mlp_ratio": 1.0, "depth": 3}}


def run_of(profiles: list[dict[str, Any]], tune: str = "full", **options: Any) -> RunConfig:
    data = {"name": "digits", "nodes": 4, "train_samples": 120, "test_samples": 80}
    return RunConfig.from_tables(
        {
            "data": {**data, "validation": 0.0, "partition": "dirichlet"},
            "model": {"tune": tune},
            "train": {"lr": 0.003, "local_epochs": 2},
            "strategy": {"name": "heterofl", "rounds": 2, "options": json.dumps(options)},
            "profiles": json.dumps(profiles),
        }
    )


@pytest.mark.parametrize("tune", ["full", "prompts", "lora"])
def test_an_entry_is_the_mean_over_those_that_have_it(tune: str) -> None:
    run = run_of([WEAK], tune)
    found = trial(run)
    assert isinstance(found.strategy, HeteroFL)
    begun = initial_tunables(run)
    firsts = found.grid.of("train.slice")[:4]
    sums = {name: torch.zeros_like(t) for name, t in begun.items()}
    counts = {name: torch.zeros_like(t) for name, t in begun.items()}
    for request, reply in firsts:
        assert reply is not None
        way = found.strategy.ways[found.grid.address(request.metadata.dst_node_id)]
        samples = float(reply.content.metric_records["told"]["num-examples"])
        trained = tensors_of(reply.content.array_records["arrays"])
        if way.change is None:
            places = {n: torch.ones_like(t, dtype=torch.bool) for n, t in begun.items()}
        else:
            marked = {n: torch.full_like(t, torch.inf) for n, t in trained.items()}
            places = {n: t.isinf() for n, t in way.back(marked, begun).items()}
        back = way.back(trained, begun)
        for name, here in places.items():
            sums[name][here] += samples * back[name][here]
            counts[name][here] += samples
    (after,) = (tensors_of(m) for m in found.models[1:2] if not isinstance(m, dict))
    for name, tensor in begun.items():
        held = counts[name] > 0
        torch.testing.assert_close(after[name][held], sums[name][held] / counts[name][held])
        assert torch.equal(after[name][~held], tensor[~held])


def test_weak_nodes_are_sent_their_slice_alone() -> None:
    found = trial(run_of([WEAK]))
    assert isinstance(found.strategy, HeteroFL)
    sizes = {
        found.strategy.ways[found.grid.address(r.metadata.dst_node_id)].change is None: sum(
            t.numel() for t in tensors_of(r.content.array_records["arrays"]).values()
        )
        for r, _ in found.grid.of("train.slice")
    }
    assert sizes[False] < 0.4 * sizes[True]


def test_it_learns_at_every_size() -> None:
    found = run_locally(run_of([WEAK], "prompts"))
    assert found["points"][-1]["accuracy"] > found["points"][0]["accuracy"] + 0.1
    assert {each["profile"] for each in found["node_quality"].values()} == {"", "W-1"}


def test_nodes_of_one_size_are_fedavg() -> None:
    """With one node a round that is told apart by nothing but its name."""
    tables = run_of([], "prompts").flat()
    ours = run_locally(RunConfig.from_flat(tables))
    theirs = run_locally(
        RunConfig.from_flat(
            {
                **tables,
                "strategy.name": "fedavg",
                "strategy.options": json.dumps({"fraction_evaluate": 0.0}),
            }
        )
    )
    for one, other in zip(ours["points"], theirs["points"], strict=True):
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.03)
        assert one["bytes"]["payload"] == pytest.approx(other["bytes"]["payload"], rel=0.01)


@pytest.mark.parametrize(
    ("profiles", "options", "line"),
    [
        ([{"share": 1.0, "model": {"embed_dim": 128}}], {}, "no node's model is larger"),
        ([WEAK], {"fraction_train": 0}, "options.fraction_train = 0.0: must be above 0"),
        ([{"share": 1.0, "model": {"tune": "head"}}], {}, "profiles.model.tune = 'head'"),
    ],
)
def test_what_it_cannot_slice_is_refused(
    profiles: list[dict[str, Any]], options: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        run_locally(run_of(profiles, **options))
