"""Under every fault the ledger ends as one chain: each hop once, signed, back to the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mfd_flower.config import FaultsConfig, RunConfig
from mfd_flower.ledger import Chains, Entry
from mfd_flower.strategy import build_strategy
from strategies.mfd_walk import MFDWalk
from tests.forwarding.test_recovery import FAULTS, NODES, walk
from tests.scheduled_faults import Rates, Rule

JUDGED = {"admission": True, "delta": True}
HEADS = {"advert_every": 1}


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(rounds: int = 3, **options: Any) -> RunConfig:
        return make_run(
            "mfd-walk",
            rounds=rounds,
            data={"nodes": NODES, "train_samples": 400, "test_samples": 200},
            model={"tune": "head"},
            options={"ledger": True, **options},
        )

    return build


def surviving(lines: str, walker: str = "w0") -> list[Entry]:
    """The path to the version in force, from the genesis, of a replica read afresh."""
    chains = Chains()
    chains.extend(lines.splitlines())
    name = next(name for name in chains.tips if name.endswith(f"#{walker}"))
    return chains.trace(chains.tips[name].version)[::-1]


def replica_after(run: RunConfig, faults: list[Rule], monkeypatch: pytest.MonkeyPatch) -> str:
    walks: list[MFDWalk] = []

    def noted(config: RunConfig) -> MFDWalk:
        found = build_strategy(config)
        assert isinstance(found, MFDWalk)
        walks.append(found)
        return found

    monkeypatch.setattr("tests.forwarding.test_recovery.build_strategy", noted)
    walk(run, faults)
    return walks[0].replica


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dies after training", {}),
        ("dies and comes back", {}),
        ("holder and next hop die", {}),
        ("reply lost for good", {}),
        ("first holder is dead", JUDGED),
        ("dies and comes back", JUDGED),
        ("request duplicated", JUDGED),
        ("network parted", JUDGED),
        ("acknowledgement lost", JUDGED),
        ("dies and comes back", HEADS),
        ("holder and next hop die", HEADS),
        ("reply lost for good", HEADS),
        ("network parted", HEADS),
    ],
    ids=str,
)
def test_the_chain_has_every_hop_once(
    settings: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
) -> None:
    run = settings(policy="round-robin", **options)
    path = surviving(replica_after(run, FAULTS[name], monkeypatch))
    assert [entry.hop for entry in path] == list(range(run.strategy.rounds * NODES + 1))
    assert len({entry.version for entry in path}) == len(path)
    assert path[-1].samples == 400 / NODES * run.strategy.rounds * NODES


@pytest.mark.parametrize(("seed", "options"), [(1, {}), (2, {}), (1, HEADS), (2, HEADS)], ids=str)
def test_branches_that_were_cut_off_are_given_up(
    settings: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    options: dict[str, Any],
) -> None:
    """Nodes die after signing and come back: what they signed is no part of the walk."""
    rates = Rates(FaultsConfig(loss=0.2, death=0.05), seed=seed, message_type="train.hop")
    path = surviving(
        replica_after(settings(rounds=8, policy="random", **options), [rates], monkeypatch)
    )
    assert [entry.hop for entry in path] == list(range(8 * NODES + 1))
