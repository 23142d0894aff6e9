"""W0 travels, and each node trains it at its own size."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.residents import shard
from mfd_flower.models.resizing import resizing
from mfd_flower.node import Node, evaluate_tunables, initial_tunables
from mfd_flower.packets import Packet
from mfd_flower.profiles import own_settings, profile_of
from mfd_flower.records import tensors_of
from mfd_flower.runtime.runner import run_locally
from mfd_flower.walk.custody import packet_in
from tests.harness import trial

SIZES = [
    {"name": "W-1", "share": 0.25, "model": {"num_heads": 2, "mlp_ratio": 2.0, "depth": 4}},
    {"name": "W+1", "share": 0.25, "model": {"embed_dim": 128}},
]


def run_of(
    profiles: list[dict[str, Any]] = SIZES,
    trait: dict[str, Any] | None = None,
    rounds: int = 1,
    resize: bool = True,
    **tables: Any,
) -> RunConfig:
    traits = {"resize": trait or {}} if resize else {}
    options = {"policy": "round-robin", "traits": {**traits, **tables.pop("traits", {})}}
    data = {"name": "digits", "nodes": 4, "train_samples": 160, "test_samples": 100}
    return RunConfig.from_tables(
        {
            "data": {**data, "validation": 0.0},
            "train": {"lr": 0.01, "local_epochs": 2, **tables.pop("train", {})},
            "strategy": {"name": "mfd-walk", "rounds": rounds, "options": json.dumps(options)},
            "profiles": json.dumps(profiles),
            **tables,
        }
    )


def hops(run: RunConfig) -> list[tuple[str, Packet, Packet]]:
    """Return each visit's node, and the packet as it came and as it left."""
    found = trial(run)
    pairs = found.grid.of("train.hop")
    return [
        (found.grid.address(a.metadata.dst_node_id), packet_in(a.content), packet_in(b.content))
        for a, b in pairs
        if b is not None
    ]


def test_w0_travels_whatever_size_a_node_has() -> None:
    shapes = {
        tuple((n, t.shape) for n, t in sorted(packet.decoded().items()))
        for _, *both in hops(run_of())
        for packet in both
    }
    assert len(shapes) == 1


def test_each_size_is_trained_where_it_is() -> None:
    run = run_of()
    flops = run_locally(run)["node_flops"]
    by_name = {profile_of(run, i).name if profile_of(run, i) else "": f"n{i}" for i in range(4)}
    assert flops[by_name["W-1"]] < flops[by_name[""]] < flops[by_name["W+1"]]


def test_a_cut_node_moves_its_part_alone() -> None:
    run = run_of([{**SIZES[0], "share": 1.0}])
    own = own_settings(run, 0)
    way = resizing(run.model, own.model, 10, run.seed)
    for _, came, left in hops(run):
        before, after = came.decoded(), left.decoded()
        part, rest = way.there(after), way.back(way.there(before), after)
        assert any(not torch.equal(part[n], way.there(before)[n]) for n in part)
        # With its own part put back as it came, nothing has changed.
        assert all(torch.equal(rest[name], before[name]) for name in before)


@pytest.mark.parametrize("tune", ["prompts", "lora", "full"])
def test_a_grown_node_goes_on_from_where_the_model_was(tune: str) -> None:
    """No jump in the loss at the growth, and nothing lost where nobody trains."""
    still = {"train": {"lr": 1e-12, "local_epochs": 1}, "model": {"tune": tune}}
    run = run_of([{**SIZES[1], "share": 1.0}], **still)
    begun = initial_tunables(run)
    for _, came, left in hops(run):
        assert all(
            torch.allclose(left.decoded()[name], came.decoded()[name], atol=2e-6) for name in begun
        )
    own = own_settings(run, 0)
    there = resizing(run.model, own.model, 10, run.seed).there(begun)
    small, large = evaluate_tunables(run, begun), evaluate_tunables(own, there)
    assert large.loss == pytest.approx(small.loss, abs=1e-4)


def test_a_walk_over_sizes_learns() -> None:
    points = run_locally(run_of(rounds=3))["points"]
    assert points[-1]["accuracy"] > points[0]["accuracy"] + 0.2


def test_what_was_cut_is_recovered_from_w0() -> None:
    """One that learned from W0 says more often what W0 says."""
    profiles = [{**SIZES[0], "share": 1.0}]
    agree = []
    for epochs in (0, 4):
        run = run_of(profiles, {"recover_epochs": epochs}, train={"lr": 0.01, "local_epochs": 1})
        nodes = trial(run).contexts.items()
        begun, shown = initial_tunables(run), shard(run, "test")
        whole = Node(run, 0).logits(begun, shown)
        part = {n: tensors_of(c.state.array_records["trait/w0/resize"]) for n, c in nodes}
        own = Node(own_settings(run, 0), 0)
        said = own.logits(part["n0"], shard(own.run, "test"))
        agree.append(float((said.argmax(1) == whole.argmax(1)).float().mean()))
    assert agree[1] > agree[0]


def test_nested_sizes_leave_parts_that_work() -> None:
    profiles = [{"name": "W-2", "share": 0.25, "model": {"num_heads": 1, "mlp_ratio": 0.5}}]
    quality = []
    for nested in (False, True):
        settings = {"lr": 0.001, "local_epochs": 4}
        how = {"rounds": 2, "model": {"tune": "full"}, "train": settings}
        found = run_locally(run_of(profiles, {"nested": nested}, **how))["node_quality"]
        (weak,) = (q["accuracy"] for q in found.values() if q["profile"] == "W-2")
        quality.append(weak)
    assert quality[1] > quality[0] + 0.05


def test_prompts_beyond_those_that_travel_stay_on_the_node() -> None:
    more = [{"name": "more", "share": 1.0, "model": {"prompts": 12, "embed_dim": 128}}]
    run = run_of(more, rounds=2)
    found = trial(run)
    for _, came, left in hops(run):
        assert left.decoded()["prompts.0"].shape == came.decoded()["prompts.0"].shape == (8, 96)
    kept = {
        name: tensors_of(context.state.array_records["trait/w0/resize"])
        for name, context in found.contexts.items()
    }
    extra = [tensors["prompts.0"][8:] for tensors in kept.values()]
    assert all(rows.shape == (4, 128) for rows in extra)
    assert not torch.equal(extra[0], extra[1])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"resize": False}, "profiles[0].model = {'depth': 4, 'mlp_ratio': 2.0, 'num_heads': 2}"),
        ({"traits": {"gate": {}}}, "gate"),
        ({"profiles": [{"share": 1.0, "model": {"tune": "head"}}]}, "profiles.model.tune = 'head'"),
        (
            {"profiles": [{"share": 1.0, "model": {"embed_dim": 64}}]},
            "model = {'embed_dim': 64}: embed_dim = 64: must be at least 96",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        run_locally(run_of(**changes))
    assert "\n" not in str(caught.value)
