"""Under every fault the ledger ends as one chain: each hop once, signed, back to the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Message

from mfd_flower.config import FaultsConfig, RunConfig
from mfd_flower.walk.custody import packet_in
from mfd_flower.walk.node_ledger import LEDGER
from tests.harness import trial
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


def test_a_first_version_that_two_cannot_take_goes_to_a_third(signed: Settings) -> None:
    """Nobody else has a copy, so its maker is not passed over as one whom two did not believe."""

    def without_its_entries(request: Message) -> None:
        if request.metadata.message_type == "train.hop":
            packet = packet_in(request.content)
            if packet.hop == 2 and packet.destination in ("n1", "n2"):
                request.content.pop(LEDGER, None)

    found = trial(signed(policy="round-robin"), change=without_its_entries)
    assert list(vars(found.strategy)["not_taken"]) == [("w0", 2, "n0")]
    assert [entry.author for entry in path_of(found)][1:3] == ["n0", "n3"]
    assert len(path_of(found)) == 1 + 3 * NODES
