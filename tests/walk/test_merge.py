"""Walkers that meet leave one model: the average of those they came with, whatever the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from mfd_flower.config import RunConfig
from mfd_flower.packets import Packet, PacketError, repack
from mfd_flower.walk.custody import PACKET, sealed
from mfd_flower.walk.hop import hop
from tests.harness import Trial, trial, whole_and_stopped
from tests.scheduled_faults import Fault
from tests.walk.walks import chains_of, hops, made, options

NODES, ROUNDS = 6, 2


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """Return a builder of walks of so many walkers."""

    def build(walkers: int, network: Any = None, start: int = 0, **traits: Any) -> RunConfig:
        policy = {"name": "random", "start_node": start}
        data = {"nodes": NODES, "train_samples": 20 * NODES, "test_samples": 50}
        told = {"model": {"tune": "head"}, "network": network or {}}
        return make_run(
            "mfd-walk", ROUNDS, data=data, options=options(policy, walkers, **traits), **told
        )

    return build


def through(packet: Packet) -> bool:
    return packet.ttl <= NODES


def arriving(found: Trial, meeting: str = "n0") -> list[Packet]:
    """Return the packets that arrive where walkers meet, each walker's first."""
    packets = [p for p in hops(found.grid) if through(p) and p.destination == meeting]
    return list({p.walker: p for p in reversed(packets)}.values())[::-1]


def average(packets: list[Packet]) -> dict[str, Tensor]:
    """Return the mean of models, by the visits of each walker."""
    visits = [packet.hop - 1 for packet in packets]
    models = [packet.decoded() for packet in packets]
    return {
        name: sum(n * model[name] for n, model in zip(visits, models, strict=True)) / sum(visits)
        for name in models[0]
    }


@pytest.mark.parametrize("walkers", [2, 3])
@pytest.mark.parametrize(
    ("network", "start"),
    [({}, 0), ({}, 4), ({"topology": "ring"}, 0), ({"topology": "ring"}, 1)],
)
def test_the_one_model_is_the_average_of_those_that_met(
    settings: Callable[..., RunConfig], walkers: int, network: Any, start: int
) -> None:
    found = trial(settings(walkers, network, start))
    came = arriving(found, f"n{start}")
    assert {packet.walker for packet in came} == {f"w{n}" for n in range(walkers)}
    (expected, last) = average(came), found.models[-1]
    assert not isinstance(last, dict), "one model"
    for name, tensor in found.tensors.items():
        torch.testing.assert_close(tensor, expected[name])
    assert found.grid.updates == ROUNDS * NODES, "nobody trains on the way there"
    final = max(made(found.grid), key=lambda packet: packet.samples)
    assert final.samples == sum(packet.samples for packet in came) == 20 * NODES * ROUNDS
    assert sum(final.seen) == pytest.approx(20 * NODES * ROUNDS)


@pytest.mark.parametrize("start", range(NODES))
def test_the_meeting_is_one_hop_of_each_wherever_it_is(
    settings: Callable[..., RunConfig], start: int
) -> None:
    """Also of a walker that trained there last: it is sent to itself."""
    assert len(hops(trial(settings(2, None, start)).grid)) == ROUNDS * NODES + 2


def test_before_they_meet_there_is_a_model_a_walker(settings: Callable[..., RunConfig]) -> None:
    found = trial(settings(3))
    counts = [len(each) if isinstance(each, dict) else 1 for each in found.models]
    assert counts[1:] == [3] * (ROUNDS * NODES + 1) + [2, 1]


def test_a_single_walker_meets_nobody(settings: Callable[..., RunConfig]) -> None:
    found = trial(settings(1))
    assert len(hops(found.grid)) == ROUNDS * NODES
    assert {packet.meeting for packet in hops(found.grid)} == {""}


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_a_short_code_costs_one_rounding(settings: Callable[..., RunConfig], codec: str) -> None:
    found = trial(settings(3, codec={"name": codec}))
    expected = average(arriving(found))
    for name, tensor in found.tensors.items():
        step = expected[name].abs().max().item() / 127
        assert (tensor - expected[name]).abs().max() <= 2 * step


@pytest.mark.parametrize("network", [{}, {"topology": "ring"}])
def test_it_is_the_version_of_a_merge_in_the_ledger(
    settings: Callable[..., RunConfig], network: Any
) -> None:
    found = trial(settings(2, network, ledger={}))
    came, chains = arriving(found), chains_of(found)
    (merge,) = [entry for entry in chains.entries if len(entry.parents) == 2]
    assert list(merge.parents) == [packet.version for packet in reversed(came)]
    assert merge.author == "n0"
    assert merge.samples == 20 * NODES * ROUNDS


@pytest.mark.parametrize("network", [{}, {"topology": "ring"}])
def test_judges_on_the_way_there_take_what_nobody_has_built_on(
    settings: Callable[..., RunConfig], network: Any
) -> None:
    found = trial(settings(2, network, ledger={}, admission={}))
    assert found.strategy.not_taken == {}  # type: ignore[attr-defined]
    assert found.grid.updates == ROUNDS * NODES
    assert not isinstance(found.models[-1], dict)
    assert len([e for e in chains_of(found).entries if len(e.parents) == 2]) == 1


def test_a_packet_of_another_model_is_not_left_where_others_meet(
    settings: Callable[..., RunConfig],
) -> None:
    """It would be what no other walker can be averaged with."""
    found = trial(settings(2))
    packet = arriving(found)[0]
    strange = repack(packet, {"head.extra": torch.zeros(3)})[0]
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), found.run.flat())
    content = RecordDict({PACKET: sealed(strange)})
    with pytest.raises(PacketError, match="shapes: not those of the model that walkers began as"):
        hop(Message(content, 1, "train.hop"), context)
    assert not len(context.state)


def test_who_does_not_come_is_left_out(settings: Callable[..., RunConfig]) -> None:
    """Where they were to meet nobody answers: each walker ends by itself, and nothing is lost."""
    dead = Fault("dies-before-training", "n0", message_type="train.hop", occurrence=4)
    found = trial(settings(2), [dead], timeout=0.5)
    models = found.models[-1]
    assert isinstance(models, dict)
    assert set(models) == {"w0", "w1"}


def test_a_killed_walk_goes_on_to_the_same_meeting(
    settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    whole, again, _ = whole_and_stopped(settings(2, ledger={}), tmp_path, 5, 12)
    assert again == whole
