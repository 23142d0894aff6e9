"""Under every fault the ledger ends as one chain: each hop once, signed, back to the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mfd_flower.config import FaultsConfig, RunConfig
from tests.scheduled_faults import Rates
from tests.walk.test_recovery import FAULTS, NODES, walked
from tests.walk.walks import path_of

Settings = Callable[..., RunConfig]
SIGNED: dict[str, Any] = {"policy": "round-robin"}
JUDGED: dict[str, Any] = {**SIGNED, "admission": {}, "delta": {}}
HEADS: dict[str, Any] = {"policy": {"name": "round-robin", "advert_every": 1}}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dies after training", SIGNED),
        ("dies and comes back", SIGNED),
        ("holder and next hop die", SIGNED),
        ("reply lost for good", SIGNED),
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
def test_the_chain_has_every_hop_once(signed: Settings, name: str, options: dict[str, Any]) -> None:
    run = signed(samples=80, held_out=200, **options)
    path = path_of(walked(run, FAULTS[name]))
    assert [entry.hop for entry in path] == list(range(run.strategy.rounds * NODES + 1))
    assert len({entry.version for entry in path}) == len(path)
    assert path[-1].samples == 80 * run.strategy.rounds * NODES


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("policy", ["random", {"name": "random", "advert_every": 1}], ids=str)
def test_branches_that_were_cut_off_are_given_up(signed: Settings, seed: int, policy: Any) -> None:
    """Nodes die after signing and come back: what they signed is no part of the walk."""
    rates = Rates(FaultsConfig(loss=0.2, death=0.05, downtime=3), seed, "train.hop")
    path = path_of(walked(signed(rounds=8, samples=80, held_out=200, policy=policy), [rates]))
    assert [entry.hop for entry in path] == list(range(8 * NODES + 1))
