"""The model grows along the path: each node adds a low-rank term, and changes no other."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.ledger import Chains
from mfd_flower.models import build_model, get_tunables, set_tunables
from mfd_flower.models.lora_terms import adapter_of, is_factor, renamed, stacked, standing_on
from mfd_flower.node import evaluate_tunables, initial_tunables
from mfd_flower.packets import Packet, PacketError
from mfd_flower.runtime.runner import run_locally
from mfd_flower.walk.custody import Custody
from tests.harness import Trial, trial

MODEL = {"backbone": "fm-tiny", "tune": "lora", "lora_rank": 8}


def run_of(rank: int = 2, rounds: int = 1, **other: Any) -> RunConfig:
    traits = {"terms": {"rank": rank}, **other.pop("traits", {})}
    options = {"policy": "round-robin", "traits": traits}
    return RunConfig.from_tables(
        {
            "data": {
                "name": "digits",
                "nodes": 4,
                "train_samples": 160,
                "test_samples": 100,
                "validation": 0.0,
            },
            "model": MODEL,
            "train": {"lr": 0.01, "local_epochs": 2},
            "strategy": {"name": "mfd-walk", "rounds": rounds, "options": json.dumps(options)},
            **other,
        }
    )


def newest(found: Trial) -> Packet:
    held = (Custody(context.state).held("w0") for context in found.contexts.values())
    return max((packet for packet in held if packet), key=lambda packet: packet.hop)


def landed(found: Trial) -> dict[int, Packet]:
    """Return each version by the hop that made it."""
    packets: dict[int, Packet] = {}
    for context in found.contexts.values():
        if (packet := Custody(context.state).held("w0")) is not None:
            packets[packet.hop - 1] = packet
    return packets


def drawn_terms(
    model: ModelConfig, rank: int, count: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return terms of so many nodes, and the tunables of a model of one."""
    own = get_tunables(build_model(ModelConfig(**{**vars(model), "lora_rank": rank}), 10, 0))
    generator = torch.Generator().manual_seed(seed)
    terms = {
        renamed(name, "default", f"n{index}"): torch.randn(tensor.shape, generator=generator) / 10
        for index in range(count)
        for name, tensor in own.items()
        if is_factor(name)
    }
    return terms, own


@settings(max_examples=12, deadline=None)
@given(
    rank=st.integers(1, 4),
    count=st.integers(0, 4),
    spare=st.integers(0, 3),
    alpha=st.integers(1, 16),
    seed=st.integers(0, 99),
)
def test_one_adapter_is_the_sum_of_all_terms(
    rank: int, count: int, spare: int, alpha: int, seed: int
) -> None:
    """W0 and terms, added to the weights or as one adapter of a larger rank: the same logits."""
    whole = max(1, rank * count + spare)
    config = ModelConfig(backbone="fm-tiny", tune="lora", lora_rank=whole, lora_alpha=alpha)
    terms, own = drawn_terms(config, rank, count, seed)
    one = build_model(ModelConfig(**{**vars(config), "lora_rank": rank}), 10, 0).eval()
    all_in_one = build_model(config, 10, 0).eval()
    head = {name: tensor for name, tensor in own.items() if not is_factor(name)}
    set_tunables(all_in_one, {**head, **stacked(terms, get_tunables(all_in_one), rank)})
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    frozen = {n: p for n, p in one.named_parameters() if not p.requires_grad}
    before = {name: tensor.clone() for name, tensor in frozen.items()}
    with torch.inference_mode():
        plain = one(images)
        with standing_on(one, terms):
            grown = one(images)
        torch.testing.assert_close(grown, all_in_one(images), atol=2e-5, rtol=1e-4)
        assert torch.equal(plain, one(images))
    assert (not torch.allclose(plain, grown)) is (count > 0)
    after = dict(one.named_parameters())
    assert all(after[n] is p and torch.equal(p, before[n]) for n, p in frozen.items())


def test_terms_of_more_ranks_than_there_are_do_not_fit() -> None:
    config = ModelConfig(backbone="fm-tiny", tune="lora", lora_rank=3)
    terms, _ = drawn_terms(config, 2, 2, 0)
    with pytest.raises(ValueError, match="4 ranks of terms, 3 are there"):
        stacked(terms, get_tunables(build_model(config, 10, 0)), 2)


def test_each_node_adds_one_term_and_changes_no_other() -> None:
    found = trial(run_of(rounds=1))
    versions = landed(found)
    made = {hop: packet.decoded() for hop, packet in sorted(versions.items())}
    assert len(made) == 4
    for hop, tensors in made.items():
        assert len({adapter_of(n) for n in tensors if is_factor(n)}) == hop
        for name, tensor in made.get(hop - 1, {}).items():
            if is_factor(name):
                assert torch.equal(tensor, tensors[name])
    sizes = [sum(t.numel() for n, t in made[hop].items() if is_factor(n)) for hop in sorted(made)]
    assert sizes == [sizes[0] * hop for hop in sorted(made)]


def test_a_node_goes_on_with_its_term_at_its_next_visit() -> None:
    once, twice = (newest(trial(run_of(rounds=rounds))).decoded() for rounds in (1, 2))
    assert once.keys() == twice.keys()
    assert all(not torch.equal(once[name], twice[name]) for name in once if ".lora_B." in name)


def test_the_model_that_comes_out_is_what_travelled() -> None:
    run = run_of(rounds=2)
    found = trial(run)
    last = newest(found)
    assert found.tensors.keys() == initial_tunables(run).keys()
    head = {n: t for n, t in last.decoded().items() if not is_factor(n)}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in head.items())
    points = run_locally(run)["points"]
    measured = evaluate_tunables(run, found.tensors)
    assert measured.accuracy == pytest.approx(points[-1]["accuracy"])
    assert points[-1]["accuracy"] > points[0]["accuracy"] + 0.2
    # What travels grows by a term a node, and then no more.
    payload = [point["bytes"]["payload"] for point in points]
    wire = [after - before for before, after in pairwise(payload)]
    assert wire[1] < wire[2] < wire[3]
    assert wire[-1] == wire[-2]


def test_a_delta_and_a_ledger_change_nothing_of_it() -> None:
    plain, delta = (
        trial(run_of(rounds=2, traits=traits)) for traits in ({}, {"delta": {}, "ledger": {}})
    )
    assert all(torch.equal(t, delta.tensors[n]) for n, t in plain.tensors.items())


def test_the_ledger_says_whose_term_it_is() -> None:
    found = trial(run_of(traits={"ledger": {}}))
    chains = Chains()
    chains.extend(found.strategy.replica.splitlines())
    made = [entry for entry in chains.entries if entry.kind == "version"]
    versions = {packet.version: packet for packet in landed(found).values()}
    for entry in made:
        new = {name for name, hop in versions[entry.version].updated.items() if hop == entry.hop}
        assert {adapter_of(n) for n in new if is_factor(n)} == {entry.author}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: {**t, "x.lora_A.n9.weight": torch.zeros(2, 96)}, "n9, which is no node"),
        (lambda t: {**t, "x.lora_A.n1.weight": torch.zeros(2, 96)}, "shapes."),
        (lambda t: {n: v for n, v in t.items() if n != "head.bias"}, "head.bias: missing"),
        (
            lambda t: {n: v[:1] if ".lora_A." in n else v for n, v in t.items()},
            r"lora_A.n0.weight: \(1, 96\), must be \(2, 96\)",
        ),
    ],
)
def test_terms_that_are_none_are_named(change: Any, says: str) -> None:
    from mfd_flower.walk.traits.terms import _check

    config = ModelConfig(**MODEL)
    terms, own = drawn_terms(config, 2, 1, 0)
    whole = {**terms, **{n: t for n, t in own.items() if not is_factor(n)}}
    _check(whole, own, ["n0", "n1"])
    with pytest.raises(PacketError, match=says):
        _check(change(whole), own, ["n0", "n1"])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"tune": "prompts"}, "model.tune = 'prompts': accepted by the trait terms: lora"),
        ({"lora_rank": 7}, "model.lora_rank = 7: at least 8, options.traits.terms.rank for each"),
        ({"weights": "int8"}, "model.weights = 'int8': accepted by the trait terms: fp32"),
    ],
)
def test_a_model_without_room_for_terms_is_refused(model: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_locally(run_of(model={**MODEL, **model}))
