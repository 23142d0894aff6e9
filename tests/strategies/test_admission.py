"""Poisoned versions are refused and their authors dropped; the walk goes on from what was good."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Message

from mfd_flower.config import RunConfig
from mfd_flower.forwarding.admission import PARENT
from mfd_flower.ledger import Entry
from mfd_flower.ledger.quarantine import REFUSALS_TO_DROP
from mfd_flower.node import evaluate_tunables
from mfd_flower.runtime.runner import run_locally
from mfd_flower.threat import poisoners
from tests.forwarding.test_notary import Walked

NODES, ROUNDS = 6, 4


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(kind: str = "", share: float = 0.2, scale: float = 1.0, **options: Any) -> RunConfig:
        base = {"policy": "random", "ledger": True, "admission": True}
        return make_run(
            "mfd-walk",
            rounds=ROUNDS,
            data={"nodes": NODES, "train_samples": 60 * NODES, "test_samples": 100},
            model={"tune": "head"},
            train={"lr": 0.01},
            threat={"kind": kind, "share": share, "scale": scale},
            options={**base, "damping_end": 0.2, "damping_tours": 1.0, **options},
        )

    return build


def refusals(walked: Walked) -> list[Entry]:
    return [entry for entry in walked.chains.entries if entry.kind == "refusal"]


def check_chain(walked: Walked, walkers: int = 1) -> None:
    """No gap, every hop paid for, and nobody is heard of again after the second refusal."""
    assert walked.grid.updates == ROUNDS * NODES
    for walker in range(walkers):
        path = walked.path(f"w{walker}")
        assert [entry.hop for entry in path] == list(range(len(path)))
        assert all(entry.reason == "" for entry in path)
    refused = refusals(walked)
    assert sum(len(walked.path(f"w{w}")) - 1 for w in range(walkers)) + len(refused) == (
        ROUNDS * NODES
    )
    counts = Counter((entry.chain, entry.subject) for entry in refused)
    assert max(counts.values(), default=0) <= REFUSALS_TO_DROP


@pytest.mark.parametrize(
    ("kind", "scale"), [("sign-flip", 3.0), ("scale", 10.0), ("label-flip", 1.0)]
)
def test_an_attacker_is_refused_and_then_dropped(
    settings: Callable[..., RunConfig], kind: str, scale: float
) -> None:
    run = settings(kind, scale=scale)
    walked, bad = Walked(run), poisoners(run)
    made = [entry for entry in walked.chains.entries if entry.author in bad]
    versions = {entry.version for entry in made if entry.kind == "version"}
    assert versions == {entry.version for entry in refusals(walked)}
    assert len(versions) == REFUSALS_TO_DROP * len(bad)
    assert not bad & {entry.author for entry in walked.path()}
    check_chain(walked)
    assert evaluate_tunables(run, walked.tensors).accuracy > 0.8


@pytest.mark.parametrize(
    "options",
    [
        {"delta": True, "select": "least-recent", "budget": 0.9},
        {"codec": "int8", "delta": True},
        {"walkers": 2},
        {"carry_optimizer": True, "average": 0.1},
    ],
    ids=json.dumps,
)
def test_admission_goes_with_other_options(
    settings: Callable[..., RunConfig], options: dict[str, Any]
) -> None:
    run = settings("scale", scale=10.0, **options)
    walked = Walked(run)
    assert {entry.subject for entry in refusals(walked)} >= poisoners(run)
    check_chain(walked, options.get("walkers", 1))


def test_an_honest_walk_is_the_same_with_admission(settings: Callable[..., RunConfig]) -> None:
    judged, plain = Walked(settings()), Walked(settings(ledger=False, admission=False))
    assert refusals(judged) == []
    for name, tensor in plain.tensors.items():
        assert torch.equal(judged.tensors[name], tensor), name
    # One more landing: the last version, which is judged and not trained on.
    assert judged.steps == [*plain.steps, plain.steps[-1] + 1]


def test_with_everybody_malicious_the_walk_ends_all_the_same(
    settings: Callable[..., RunConfig],
) -> None:
    """Every version that another node judged was refused, and nobody had more than two chances."""
    walked = Walked(settings("sign-flip", share=1.0, scale=3.0))
    assert walked.grid.updates <= ROUNDS * NODES
    entries = walked.chains.entries
    counts = Counter(entry.subject for entry in refusals(walked))
    assert max(counts.values()) == REFUSALS_TO_DROP
    for made, after in itertools.pairwise(entry for entry in entries if entry.hop):
        if made.kind == "version" and after.author != made.author:
            assert (after.kind, after.subject) == ("refusal", made.author)


def test_a_refusal_is_in_every_later_replica(settings: Callable[..., RunConfig]) -> None:
    walked = Walked(settings("sign-flip", scale=3.0))
    entries = walked.chains.entries
    first = next(place for place, entry in enumerate(entries) if entry.kind == "refusal")
    for entry in entries[first:]:
        lines = str(walked.contexts[entry.author].state.config_records["ledger"]["lines"])
        assert entries[first].text in lines.splitlines()


def test_a_replayed_version_never_enters_the_ledger(settings: Callable[..., RunConfig]) -> None:
    run = settings("replay", damping_end=1.0)
    walked, bad = Walked(run), poisoners(run)
    assert not bad & {entry.author for entry in walked.chains.entries}
    assert {source for _, _, source in walked.strategy.not_taken} == bad
    assert {reason for told in walked.strategy.not_taken.values() for reason in told} == {"replay"}
    assert walked.grid.updates == ROUNDS * NODES


def test_tampering_costs_a_second_sending_and_nothing_else(
    settings: Callable[..., RunConfig],
) -> None:
    calm, shaken = Walked(settings()), Walked(settings("tamper"))
    assert shaken.strategy.replica == calm.strategy.replica
    assert shaken.grid.updates == calm.grid.updates
    assert len(shaken.grid.requests) > len(calm.grid.requests)


def test_a_parent_that_is_left_out_is_asked_for(settings: Callable[..., RunConfig]) -> None:
    def change(request: Message) -> None:
        if PARENT in request.content:
            del request.content[PARENT]

    calm, stripped = Walked(settings()), Walked(settings(), change)
    assert stripped.strategy.replica == calm.strategy.replica


def test_the_parent_stays_where_it_is_held(settings: Callable[..., RunConfig]) -> None:
    """Neither W0, which each node can make, nor what the receiver itself had sent."""
    walked = Walked(settings())
    path = {entry.version: entry for entry in walked.path()}
    for request in walked.hops():
        version = request.content.config_records["header"]["version"]
        receiver = walked.grid.address(request.metadata.dst_node_id)
        parents = path[str(version)].parents
        maker = path[parents[0]] if parents else None
        needed = maker is not None and maker.hop > 0 and maker.author != receiver
        assert (PARENT in request.content) == needed


def test_the_record_counts_what_was_accepted_and_refused(
    settings: Callable[..., RunConfig],
) -> None:
    record = run_locally(settings("sign-flip", scale=3.0))
    counts = record["admission"]
    assert counts["poisoned_accepted"] == 0
    assert counts["poisoned_refused"] == REFUSALS_TO_DROP
    assert sum(counts.values()) == ROUNDS * NODES
    steps = [point["step"] for point in record["points"]]
    assert all(a < b for a, b in itertools.pairwise(steps))
    assert {v["author"] for v in record["versions"] if v["reason"]} == poisoners(
        settings("sign-flip", scale=3.0)
    )
