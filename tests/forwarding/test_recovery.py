"""A walk survives every fault: no gap, no update twice, and a trained model at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from flwr.app import ArrayRecord, Message

from mfd_flower.client_app import app
from mfd_flower.config import FaultsConfig, RunConfig
from mfd_flower.forwarding import WalkFailedError
from mfd_flower.models import build_model, get_tunables
from mfd_flower.node import evaluate_tunables
from mfd_flower.packets import Packet, PacketError, restored
from mfd_flower.runtime import LocalGrid, MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.strategy import build_strategy
from tests.scheduled_faults import Fault, Rates, Rule, ScheduledGrid

NODES = 5


class Wire(MeteredGrid):
    """Keeps the packets that came whole out of a hop or out of custody."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.packets: list[Packet] = []
        self.first: dict[str, Packet] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        requests = list(messages)
        for request in requests:
            if request.content.config_records["header"]["hop"] == 1:
                packet = Packet.from_record(request.content)
                self.first[packet.version] = packet
        return super().push_messages(requests)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.noted(super().send_and_receive(messages, timeout=timeout))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.noted(super().pull_messages(message_ids))

    def noted(self, replies: Iterable[Message]) -> list[Message]:
        replies = list(replies)
        for reply in replies:
            if reply.has_content() and reply.metadata.message_type in ("train.hop", "query.again"):
                try:
                    packet = Packet.from_record(reply.content)
                    known = self.first | {kept.version: kept for kept in self.packets}
                    self.packets.append(restored(packet, known.get(packet.base)))
                except PacketError:
                    continue
        return replies


def walk(run: RunConfig, faults: Sequence[Rule]) -> tuple[Wire, ScheduledGrid, list[int], float]:
    """Walk under faults; returns the wire, the faults, the hops measured, the final accuracy."""
    steps: list[int] = []
    strategy = build_strategy(run)
    initial = ArrayRecord(get_tunables(build_model(run.model, 10, run.seed)))
    with LocalGrid(app, run.data.nodes, run.flat()) as inner:
        addresses = call_roll(inner, run.data.nodes)
        faulty = ScheduledGrid(inner, faults, addresses)
        grid = Wire(faulty, type(strategy).links, addresses=addresses)  # type: ignore[attr-defined]
        result = strategy.start(
            grid,
            initial,
            num_rounds=run.strategy.rounds,
            timeout=5,
            evaluate_fn=lambda step, arrays: steps.append(step),  # type: ignore[func-returns-value]
        )
    accuracy = evaluate_tunables(run, result.arrays.to_torch_state_dict()).accuracy
    return grid, faulty, steps, accuracy


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(rounds: int = 3, **options: Any) -> RunConfig:
        return make_run(
            "mfd-walk",
            rounds=rounds,
            data={"nodes": NODES, "train_samples": 400, "test_samples": 200},
            model={"tune": "head"},
            options=options,
        )

    return build


def final_chain(packets: Sequence[Packet]) -> list[Packet]:
    """Follow the last packet back, parent by parent, to the start model."""
    made = {packet.version: packet for packet in packets}
    chain = [packets[-1]]
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
    run = settings(policy="round-robin", delta=delta)
    hops = run.strategy.rounds * NODES
    grid, faulty, steps, accuracy = walk(run, FAULTS[name])
    assert faulty.injected.total() > 0, "the fault never struck"
    assert sorted(set(steps)) == list(range(hops + 1))
    chain = final_chain(grid.packets)
    assert [packet.hop for packet in chain] == list(range(2, hops + 2))
    # Once each: as many visits are in what the model has seen as there are hops in its history.
    assert sum(chain[-1].seen) == pytest.approx(400 / NODES * hops)
    assert chain[-1].samples == 400 / NODES * hops
    assert len({packet.version for packet in chain}) == hops
    assert accuracy > 0.5


def test_a_lost_reply_does_not_make_the_update_twice(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings(policy="round-robin")
    calm, *_ = walk(run, [])
    for kind in ("reply-lost", "request-duplicated", "reply-corrupted"):
        shaken, *_ = walk(run, [Fault(kind, "n2", message_type="train.hop")])  # type: ignore[arg-type]
        assert shaken.packets[-1].version == calm.packets[-1].version, kind
        assert shaken.updates <= calm.updates


def test_an_unreachable_next_hop_costs_one_reroute(settings: Callable[..., RunConfig]) -> None:
    run = settings(policy="round-robin")
    grid, faulty, _, _ = walk(run, [Fault("dies-before-training", "n2", message_type="train.hop")])
    asked = [entry for entry in faulty.log if entry.address == "n2"]
    # n1 loses one message to it, chooses n3, and nobody who learnt of it asks n2 again first.
    assert grid.visits.count("n2") <= NODES - 1
    assert len(asked) == grid.visits.count("n2")
    assert [p.source for p in final_chain(grid.packets)].count("n2") == 0


def test_200_hops_finish_under_loss_and_deaths(settings: Callable[..., RunConfig]) -> None:
    run = settings(rounds=40, policy="random")
    rates = Rates(FaultsConfig(loss=0.2, death=0.05), seed=1)
    grid, faulty, steps, accuracy = walk(run, [rates])
    assert steps[-1] == 200
    assert sorted(set(steps)) == list(range(201))
    assert faulty.injected.total() > 50
    chain = final_chain(grid.packets)
    assert [packet.hop for packet in chain] == list(range(2, 202))
    assert sum(chain[-1].seen) == pytest.approx(400 / NODES * 200)
    assert accuracy > 0.6


def test_with_everybody_dead_the_walk_says_so(settings: Callable[..., RunConfig]) -> None:
    faults = [
        Fault("dies-after-reply", f"n{i}", occurrence=2, message_type="train.hop")
        for i in range(NODES)
    ]
    with pytest.raises(WalkFailedError, match="not delivered"):
        walk(settings(policy="round-robin"), faults)


def test_several_walkers_survive_loss_and_deaths(settings: Callable[..., RunConfig]) -> None:
    run = settings(rounds=10, policy="random", walkers=2, delta=True)
    rates = Rates(FaultsConfig(loss=0.1, death=0.03), seed=2)
    grid, faulty, steps, accuracy = walk(run, [rates])
    assert faulty.injected.total() > 10
    assert steps[-1] == 50
    for walker in ("w0", "w1"):
        chain = final_chain([packet for packet in grid.packets if packet.walker == walker])
        assert [packet.hop for packet in chain] == list(range(2, 27))
        assert chain[-1].samples == 400 / NODES * 25
    assert accuracy > 0.6
