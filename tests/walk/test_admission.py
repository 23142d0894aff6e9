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

from mfd_flower.adversary.attackers import poisoners
from mfd_flower.config import RunConfig
from mfd_flower.ledger import Entry
from mfd_flower.runtime.runner import run_locally
from mfd_flower.walk.node_ledger import REFUSALS_TO_DROP
from mfd_flower.walk.traits.admission import PARENT
from tests.harness import Trial, trial
from tests.walk.walks import chains_of, packet_in, path_of

NODES, ROUNDS = 6, 4
Settings = Callable[..., RunConfig]


@pytest.fixture
def settings(signed: Settings) -> Settings:
    def build(kind: str = "", share: float = 0.2, scale: float = 1.0, **traits: Any) -> RunConfig:
        judged = {"admission": {}, "damping": {"end": 0.2, "tours": 1.0}}
        return signed(
            rounds=ROUNDS,
            nodes=NODES,
            samples=60,
            train={"lr": 0.01},
            threat={"kind": kind, "share": share, "scale": scale},
            **{**judged, **traits},
        )

    return build


def refusals(walked: Trial) -> list[Entry]:
    return [entry for entry in chains_of(walked).entries if entry.kind == "refusal"]


def check_chain(walked: Trial, walkers: int = 1) -> None:
    """No gap, every hop paid for, and nobody is heard of again after the second refusal."""
    assert walked.grid.updates == ROUNDS * NODES
    for walker in range(walkers):
        path = path_of(walked, f"w{walker}")
        assert [entry.hop for entry in path] == list(range(len(path)))
        assert all(entry.reason == "" for entry in path)
    refused = refusals(walked)
    made = sum(len(path_of(walked, f"w{w}")) - 1 for w in range(walkers))
    # Where walkers meet one version more is made than by training.
    assert made + len(refused) == ROUNDS * NODES + walkers - 1
    counts = Counter((entry.chain, entry.subject) for entry in refused)
    assert max(counts.values(), default=0) <= REFUSALS_TO_DROP


@pytest.mark.parametrize(
    ("kind", "scale"), [("sign-flip", 3.0), ("scale", 10.0), ("label-flip", 1.0)]
)
def test_an_attacker_is_refused_and_then_dropped(
    settings: Settings, kind: str, scale: float
) -> None:
    run = settings(kind, scale=scale)
    walked, bad = trial(run), poisoners(run)
    made = [entry for entry in chains_of(walked).entries if entry.author in bad]
    versions = {entry.version for entry in made if entry.kind == "version"}
    assert versions == {entry.version for entry in refusals(walked)}
    assert len(versions) == REFUSALS_TO_DROP * len(bad)
    assert not bad & {entry.author for entry in path_of(walked)}
    check_chain(walked)
    assert walked.accuracy > 0.8


@pytest.mark.parametrize(
    "options",
    [
        {"delta": {}, "partial": {"by": "least-recent", "budget": 0.9}},
        {"codec": {"name": "int8"}, "delta": {}},
        {"walkers": 2},
        {"optimizer": {}},
    ],
    ids=json.dumps,
)
def test_admission_goes_with_other_options(settings: Settings, options: dict[str, Any]) -> None:
    run = settings("scale", scale=10.0, **options)
    walked = trial(run)
    assert {entry.subject for entry in refusals(walked)} >= poisoners(run)
    check_chain(walked, options.get("walkers", 1))


def test_an_honest_walk_is_the_same_with_admission(settings: Settings) -> None:
    judged, plain = trial(settings()), trial(settings(ledger=None, admission=None))
    assert refusals(judged) == []
    for name, tensor in plain.tensors.items():
        assert torch.equal(judged.tensors[name], tensor), name
    # One more landing: the last version, which is judged and not trained on.
    assert judged.steps == [*plain.steps, plain.steps[-1] + 1]


def test_with_everybody_malicious_the_walk_ends_all_the_same(
    settings: Settings,
) -> None:
    """Every version that another node judged was refused, and nobody had more than two chances."""
    walked = trial(settings("sign-flip", share=1.0, scale=3.0))
    assert walked.grid.updates <= ROUNDS * NODES
    entries = chains_of(walked).entries
    counts = Counter(entry.subject for entry in refusals(walked))
    assert max(counts.values()) == REFUSALS_TO_DROP
    for made, after in itertools.pairwise(entry for entry in entries if entry.hop):
        if made.kind == "version" and after.author != made.author:
            assert (after.kind, after.subject) == ("refusal", made.author)


def test_a_refusal_is_in_every_later_replica(settings: Settings) -> None:
    walked = trial(settings("sign-flip", scale=3.0))
    entries = chains_of(walked).entries
    first = next(place for place, entry in enumerate(entries) if entry.kind == "refusal")
    for entry in entries[first:]:
        lines = str(walked.contexts[entry.author].state.config_records["ledger"]["lines"])
        assert entries[first].text in lines.splitlines()


def test_a_replayed_version_never_enters_the_ledger(settings: Settings) -> None:
    run = settings("replay", damping=None)
    walked, bad = trial(run), poisoners(run)
    assert not bad & {entry.author for entry in chains_of(walked).entries}
    assert {source for _, _, source in not_taken(walked)} == bad
    assert {reason for told in not_taken(walked).values() for reason in told} == {"replay"}
    assert walked.grid.updates == ROUNDS * NODES


def test_tampering_costs_a_second_sending_and_nothing_else(
    settings: Settings,
) -> None:
    calm, shaken = trial(settings()), trial(settings("tamper"))
    assert path_of(shaken) == path_of(calm)
    assert shaken.grid.updates == calm.grid.updates
    assert len(shaken.grid.requests) > len(calm.grid.requests)


def test_a_parent_that_is_left_out_is_asked_for(settings: Settings) -> None:
    asked: list[int] = []

    def change(request: Message) -> None:
        # Left out at the first try of every hop; what is asked for comes.
        if PARENT in request.content and packet_in(request.content).hop not in asked:
            asked.append(packet_in(request.content).hop)
            del request.content[PARENT]

    calm, stripped = trial(settings()), trial(settings(), change=change)
    assert path_of(stripped) == path_of(calm)


def test_the_parent_stays_where_it_is_held(settings: Settings) -> None:
    """Neither W0, which each node can make, nor what the receiver itself had sent."""
    walked = trial(settings())
    path = {entry.version: entry for entry in path_of(walked)}
    for request, _ in walked.grid.of("train.hop"):
        version = packet_in(request.content).version
        receiver = walked.grid.address(request.metadata.dst_node_id)
        parents = path[version].parents
        maker = path[parents[0]] if parents else None
        needed = maker is not None and maker.hop > 0 and maker.author != receiver
        assert (PARENT in request.content) == needed


def test_the_record_counts_what_was_accepted_and_refused(
    settings: Settings,
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


def not_taken(walked: Trial) -> dict[tuple[str, int, str], list[str]]:
    return walked.strategy.not_taken  # type: ignore[attr-defined, no-any-return]
