"""A walk survives every fault: no gap, no update twice, and a trained model at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mfd_flower.config import FaultsConfig, RunConfig
from mfd_flower.packets import Packet, PacketError, restored
from mfd_flower.walk import WalkFailedError
from mfd_flower.walk.custody import packet_in
from tests.harness import Trial, trial
from tests.scheduled_faults import Fault, Rates, Rule
from tests.walk.walks import hops, options

NODES = 5


def walked(run: RunConfig, faults: Sequence[Rule]) -> Trial:
    """Walk under faults; nobody waits long for what is lost."""
    return trial(run, faults, timeout=5)


def committed(found: Trial, walker: str = "w0") -> list[Packet]:
    """The versions that came whole out of a hop or out of custody, deltas made full."""
    known = {packet.version: packet for packet in hops(found.grid) if packet.hop == 1}
    packets = []
    pairs = zip(found.grid.requests, found.grid.replies, strict=True)
    for request, reply in pairs:
        if request.metadata.message_type not in ("train.hop", "query.again"):
            continue
        if reply is None or not reply.has_content():
            continue
        try:
            packet = packet_in(reply.content)
            packets.append(restored(packet, known.get(packet.base)))
        except PacketError:
            continue
        known[packets[-1].version] = packets[-1]
    return [packet for packet in packets if packet.walker == walker]


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(
        rounds: int = 3, policy: str = "round-robin", walkers: int = 1, **traits: Any
    ) -> RunConfig:
        return make_run(
            "mfd-walk",
            rounds=rounds,
            data={"nodes": NODES, "train_samples": 400, "test_samples": 200},
            model={"tune": "head"},
            options=options(policy, walkers, **traits),
        )

    return build


def final_chain(packets: Sequence[Packet]) -> list[Packet]:
    """Follow the last packet back, parent by parent, to the start model."""
    new = [packet for packet in packets if packet.version != packet.parent]
    made = {packet.version: packet for packet in new}
    chain = [new[-1]]
    while chain[-1].parent in made:
        chain.append(made[chain[-1].parent])
    return chain[::-1]


FAULTS = {
    "dies before training": [Fault("dies-before-training", "n2", message_type="train.hop")],
    "dies during training": [Fault("dies-during-training", "n2", message_type="train.hop")],
    "dies after training": [Fault("dies-after-training", "n2", message_type="train.hop")],
    "dies in mid-transfer": [Fault("dies-sending", "n2", message_type="train.hop")],
    "dies after acknowledging": [Fault("dies-after-reply", "n2", message_type="train.hop")],
    "dies and comes back": [
        Fault("dies-after-training", "n2", message_type="train.hop", downtime=4)
    ],
    "dies in silence": [Fault("dies-after-training", "n2", message_type="train.hop", silent=True)],
    "holder and next hop die": [
        Fault("dies-after-reply", "n1", message_type="train.hop"),
        Fault("dies-before-training", "n2", message_type="train.hop"),
    ],
    "first holder is dead": [Fault("dies-before-training", "n0", message_type="train.hop")],
    "request lost": [Fault("request-lost", "n2", message_type="train.hop")],
    "reply lost": [Fault("reply-lost", "n2", message_type="train.hop")],
    "reply lost for good": [Fault("reply-lost", "n2", span=None, message_type="train.hop")],
    "reply delayed": [Fault("reply-delayed", "n2", message_type="train.hop")],
    "request duplicated": [Fault("request-duplicated", "n2", message_type="train.hop")],
    "request corrupted": [Fault("request-corrupted", "n2", message_type="train.hop")],
    "reply corrupted": [Fault("reply-corrupted", "n2", message_type="train.hop")],
    "request cut off": [Fault("request-cut-off", "n2", message_type="train.hop")],
    "asleep": [Fault("asleep", "n2", span=4, message_type="train.hop")],
    "network parted": [
        Fault("partition", groups=(frozenset({"n0", "n1"}), frozenset({"n2", "n3", "n4"})), span=6)
    ],
    "acknowledgement lost": [Fault("request-lost", "n1", message_type="query.ack")],
    "advert lost": [Fault("request-lost", "n3", message_type="query.advert")],
    "table lost": [Fault("reply-lost", "n3", message_type="query.table")],
}


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("name", FAULTS)
def test_walk_resumes_from_the_last_committed_version(
    settings: Callable[..., RunConfig], name: str, delta: bool
) -> None:
    run = settings(**({"delta": {}} if delta else {}))
    total = run.strategy.rounds * NODES
    found = walked(run, FAULTS[name])
    assert injected(found) > 0, "the fault never struck"
    assert sorted(set(found.steps)) == list(range(total + 1))
    chain = final_chain(committed(found))
    assert [packet.hop for packet in chain] == list(range(2, total + 2))
    # Once each: as many visits are in what the model has seen as there are hops in its history.
    assert sum(chain[-1].seen) == pytest.approx(400 / NODES * total)
    assert chain[-1].samples == 400 / NODES * total
    assert len({packet.version for packet in chain}) == total
    assert found.accuracy > 0.5


def injected(found: Trial) -> int:
    assert found.faults is not None
    return found.faults.injected.total()


def test_a_lost_reply_does_not_make_the_update_twice(settings: Callable[..., RunConfig]) -> None:
    run = settings()
    calm = walked(run, [])
    for kind in ("reply-lost", "request-duplicated", "reply-corrupted"):
        shaken = walked(run, [Fault(kind, "n2", message_type="train.hop")])
        assert committed(shaken)[-1].version == committed(calm)[-1].version, kind
        assert shaken.grid.updates <= calm.grid.updates


def test_an_unreachable_next_hop_costs_one_reroute(settings: Callable[..., RunConfig]) -> None:
    found = walked(settings(), [Fault("dies-before-training", "n2", message_type="train.hop")])
    assert found.faults is not None
    asked = [entry for entry in found.faults.log if entry.address == "n2"]
    # n1 loses one message to it, chooses n3, and nobody who learnt of it asks n2 again first.
    assert 1 <= len(asked) <= NODES - 1
    assert "n2" not in found.grid.visits
    assert [p.source for p in final_chain(committed(found))].count("n2") == 0


@pytest.mark.slow
def test_200_hops_finish_under_loss_and_deaths(settings: Callable[..., RunConfig]) -> None:
    rates = Rates(FaultsConfig(loss=0.2, death=0.05, downtime=3), seed=1)
    found = walked(settings(rounds=40, policy="random"), [rates])
    assert found.steps[-1] == 200
    assert sorted(set(found.steps)) == list(range(201))
    assert injected(found) > 50
    chain = final_chain(committed(found))
    assert [packet.hop for packet in chain] == list(range(2, 202))
    assert sum(chain[-1].seen) == pytest.approx(400 / NODES * 200)
    assert found.accuracy > 0.6


def test_with_everybody_dead_the_walk_says_so(settings: Callable[..., RunConfig]) -> None:
    faults = [
        Fault("dies-after-reply", f"n{i}", occurrence=2, message_type="train.hop")
        for i in range(NODES)
    ]
    with pytest.raises(WalkFailedError, match="not delivered"):
        walked(settings(), faults)


def test_several_walkers_survive_loss_and_deaths(settings: Callable[..., RunConfig]) -> None:
    run = settings(rounds=10, policy="random", walkers=2, delta={})
    found = walked(run, [Rates(FaultsConfig(loss=0.1, death=0.03, downtime=3), seed=3)])
    assert injected(found) > 10
    assert found.steps[-1] == 50 + 2
    chains = [final_chain(committed(found, walker)) for walker in ("w0", "w1")]
    first, last = sorted(chains, key=len)
    assert [packet.hop for packet in first] == list(range(2, 27))
    assert [packet.hop for packet in last] == list(range(2, 28)), "one more, of both"
    assert first[-1].samples == last[-2].samples == 400 / NODES * 25
    assert last[-1].samples == 400 / NODES * 50
    assert found.accuracy > 0.6
