"""What each trait changes in a walk, and what it leaves as it was."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.adversary.attackers import training_samples
from mfd_flower.client_app import app
from mfd_flower.config import RunConfig
from mfd_flower.models.training import forward_flops
from mfd_flower.node import Node, initial_tunables, loaded_model
from mfd_flower.packets import PacketError
from mfd_flower.runtime import LocalGrid
from mfd_flower.runtime.runner import run_locally
from mfd_flower.walk.custody import Custody, enclosed
from mfd_flower.walk.plan import Plan, plan_of
from mfd_flower.walk.trait import Layer
from mfd_flower.walk.traits import read_traits
from mfd_flower.walk.traits.damping import Damping
from mfd_flower.walk.traits.optimizer import OPTIMIZER, Optimizer
from tests.harness import trial
from tests.walk.walks import hops, left_behind, made, options, visit_of

MakeRun = Callable[..., RunConfig]
shares = st.floats(0.01, 1.0)


def test_the_order_of_a_table_means_nothing() -> None:
    tables: dict[str, Any] = {"merge": {}, "ledger": {}, "delta": {}, "admission": {}, "gate": {}}
    orders = [dict(order) for order in itertools.islice(itertools.permutations(tables.items()), 40)]
    found = {read_traits(order) for order in orders}
    assert len(found) == 1
    layers = [trait.layer for trait in found.pop()]
    assert layers == sorted(layers)
    assert Layer.SIGNATURE < Layer.DELTA < Layer.ADMISSION < Layer.CODEC < Layer.MERGE


def plan(damping: Damping, nodes: int = 10, walkers: int = 1) -> Plan:
    run = RunConfig.from_tables({"data": {"nodes": nodes}})
    return Plan(nodes, plan_of(run).policy, walkers, (damping,))


def test_damping_is_a_straight_line_over_a_walkers_own_tours() -> None:
    damping = Damping(1.0, 0.2, 2.0)
    found = [damping.share(hop, plan(damping)) for hop in (1, 11, 21, 500)]
    assert found == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert damping.share(11, plan(damping, walkers=2)) == pytest.approx(0.6)


@given(start=shares, end=shares, tours=st.floats(0, 5), hop=st.integers(1, 200))
def test_damping_is_never_outside_its_two_ends(
    start: float, end: float, tours: float, hop: int
) -> None:
    damping = Damping(start, end, tours)
    share = damping.share(hop, plan(damping))
    assert min(start, end) - 1e-12 <= share <= max(start, end) + 1e-12


def test_damping_passes_on_a_share_of_the_update(make_run: MakeRun) -> None:
    def update(**traits: Any) -> torch.Tensor:
        grid = trial(make_run("mfd-walk", options=options(**traits))).grid
        before, after = hops(grid)[0].decoded(), made(grid)[0].decoded()
        return torch.cat([(after[name] - before[name]).flatten() for name in before])

    part = update(damping={"start": 0.25, "end": 0.25})
    torch.testing.assert_close(part, 0.25 * update(), atol=1e-6, rtol=1e-4)


class TestGate:
    """Below the gate a node trains on, up to a bound, and then says so."""

    train: ClassVar = {"local_epochs": 1, "lr": 0.01}
    shard = 48 // 3

    def first(self, make_run: MakeRun, **gate: Any) -> Any:
        run = make_run(rounds=1, train=self.train, options=options(gate=gate))
        return made(trial(run).grid)[0]

    def test_a_low_gate_lets_the_first_epoch_pass(self, make_run: MakeRun) -> None:
        packet = self.first(make_run, accuracy=0.0, most_epochs=6)
        assert packet.samples == self.shard
        assert (packet.gate, packet.below_gate) == (0.0, False)

    def test_what_is_measured_at_the_gate_is_computed_too(self, make_run: MakeRun) -> None:
        """One pass over each shard more than the same epoch without a gate."""
        flops = [
            trial(make_run(rounds=1, train=self.train, options=options(**traits))).grid.flops
            for traits in ({"gate": {"accuracy": 0.0}}, {})
        ]
        run = make_run(rounds=1, train=self.train, options=options())
        model = loaded_model(run, initial_tunables(run))
        passes = sum(
            forward_flops(model, training_samples(run, node), model.frozen_stage())
            for node in range(run.data.nodes)
        )
        assert flops[0] - flops[1] == pytest.approx(passes)

    def test_a_gate_out_of_reach_costs_all_epochs_and_marks_the_packet(
        self, make_run: MakeRun
    ) -> None:
        run = make_run(
            rounds=1, train={"lr": 1e-9}, options=options(gate={"accuracy": 1.0, "most_epochs": 3})
        )
        grid = trial(run).grid
        packet = made(grid)[0]
        assert packet.samples == 3 * self.shard
        assert (packet.gate, packet.below_gate) == (1.0, True)
        # It is sent on all the same.
        assert len(hops(grid)) == 3

    def test_training_ends_with_the_epoch_that_reaches_it(self, make_run: MakeRun) -> None:
        packet = self.first(make_run, accuracy=0.95, most_epochs=40)
        run = make_run(rounds=1, train=self.train)
        assert Node(run, 0).evaluate(packet.decoded()).accuracy >= 0.95
        epochs = packet.samples // self.shard
        assert 1 < epochs < 40
        again = self.first(make_run, accuracy=0.95, most_epochs=40)
        assert again.version == packet.version


@pytest.mark.parametrize(
    ("codec", "size_bytes"),
    [
        ("bf16", 2 * 970),
        ("fp16", 2 * 970),
        ("int8", 970 + 4 * (10 + 1)),  # a scale for each of ten classes, and one for the bias
    ],
)
def test_a_codec_shrinks_the_payload_and_still_learns(
    make_run: MakeRun, codec: str, size_bytes: int
) -> None:
    data = {"train_samples": 300, "test_samples": 200}
    model = {"tune": "head"}
    full, small = (
        run_locally(make_run(rounds=2, data=data, model=model, options=options(codec={"name": c})))
        for c in ("fp32", codec)
    )
    assert full["points"][-1]["bytes"]["payload"] == 6 * 4 * 970
    assert small["points"][-1]["bytes"]["payload"] == 6 * size_bytes
    ends = [record["points"][-1]["accuracy"] for record in (full, small)]
    assert ends[1] > ends[0] - 0.05


def test_what_a_codec_lost_of_one_walker_goes_into_no_other(make_run: MakeRun) -> None:
    run = make_run(
        rounds=4,
        data={"nodes": 4, "train_samples": 80},
        model={"tune": "head"},
        options=options("random", walkers=2, codec={"name": "int8"}),
    )
    found = trial(run)
    kept = {
        name.split("/")[1]
        for context in found.contexts.values()
        for name in context.state
        if name.startswith("trait/") and name.endswith("/codec")
    }
    assert kept == {"w0", "w1"}


@pytest.mark.parametrize("codec", ["fp32", "int8"])
@pytest.mark.parametrize("by", ["entropy", "least-recent"])
def test_a_delta_walk_is_the_same_walk_with_fewer_bytes(
    make_run: MakeRun, codec: str, by: str
) -> None:
    traits = {"partial": {"by": by, "budget": 0.4}, "codec": {"name": codec}}
    full = trial(make_run(rounds=3, options=options(**traits)))
    found = trial(make_run(rounds=3, options=options(**traits, delta={})))
    for name, tensor in full.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert found.grid.totals()["payload"] < 0.8 * full.grid.totals()["payload"]
    # Every packet between nodes but the very first is a delta that its receiver could read.
    assert [packet.kind for packet in hops(found.grid)] == ["full"] + ["delta"] * 8
    assert found.grid.failures == []


def test_a_partial_update_dates_what_it_changed(make_run: MakeRun) -> None:
    traits = {"partial": {"by": "least-recent", "budget": 0.2}}
    packets = hops(trial(make_run(rounds=3, options=options(**traits))).grid)
    for before, after in itertools.pairwise(packets):
        old, new = before.decoded(), after.decoded()
        changed = {name for name in old if not torch.equal(old[name], new[name])}
        dated = {name for name, when in after.updated.items() if when == before.hop}
        assert changed <= dated
        assert changed
        values = sum(old[name].numel() for name in dated)
        assert values <= 0.2 * sum(tensor.numel() for tensor in old.values())


def test_a_slower_link_leaves_time_for_less(make_run: MakeRun) -> None:
    def changed(d2d_bps: float) -> int:
        traits = {"partial": {"by": "least-recent", "visit_s": 0.3}}
        run = make_run(network={"d2d_bps": d2d_bps}, options=options(**traits))
        first = made(trial(run).grid)[0]
        return sum(math.prod(first.shapes[name]) for name in first.updated)

    assert changed(2e5) < changed(5e5) < changed(1e9)


@pytest.mark.parametrize("walkers", [2, 3])
@pytest.mark.parametrize("topology", ["full", "ring"])
def test_walkers_share_the_work_and_no_node_but_where_they_meet(
    make_run: MakeRun, walkers: int, topology: str
) -> None:
    run = make_run(
        rounds=4,
        data={"nodes": 6, "train_samples": 90},
        model={"tune": "head"},
        network={"topology": topology},
        options=options("random", walkers),
    )
    grid = trial(run).grid
    assert not grid.failures
    assert grid.updates == 24
    assert max(len(places) for places in grid.together) == walkers
    for places in grid.together:
        assert {place for place, count in Counter(places).items() if count > 1} <= {"n0"}
    trained = Counter(packet.walker for packet in hops(grid) if packet.ttl > 6)
    assert set(trained.values()) == {24 // walkers}


def test_two_walkers_take_half_the_virtual_time(make_run: MakeRun) -> None:
    def seconds(walkers: int) -> float:
        run = make_run(
            rounds=12,
            data={"nodes": 6, "train_samples": 90},
            model={"tune": "head"},
            options=options(walkers=walkers),
        )
        return float(run_locally(run)["points"][-1]["virtual_seconds"])

    assert seconds(2) == pytest.approx(seconds(1) / 2, rel=0.15)


def test_several_walkers_repeat_with_their_seed(make_run: MakeRun) -> None:
    run = make_run(
        rounds=3,
        data={"nodes": 6, "train_samples": 90, "partition": "dirichlet"},
        model={"tune": "head"},
        options=options({"name": "label-balance", "memory": 3}, walkers=3),
    )
    one, other = run_locally(run), run_locally(run, workers=1)
    assert one["visits"] == other["visits"]
    for a, b in zip(one["points"], other["points"], strict=True):
        for number in ("accuracy", "bytes", "virtual_seconds"):
            assert a[number] == b[number]


def test_a_rerouted_packet_keeps_its_optimizer(make_run: MakeRun) -> None:
    train = {"optimizer": "sgd", "momentum": 0.9}
    run = make_run(data={"nodes": 4}, options=options(optimizer={}), train=train)
    context, (own,) = left_behind(run, {0: 1.0})
    Custody(context.state).keep(own, RecordDict({OPTIMIZER: enclosed(own)}))
    timer = ConfigRecord({"walker": "w0", "failed": own.destination})
    with LocalGrid(app, 4, run.flat()):
        reply = app(Message(RecordDict({"timer": timer}), 1, "query.again"), context)
    assert OPTIMIZER in reply.content.config_records


def test_an_optimizer_of_another_model_is_refused(make_run: MakeRun) -> None:
    run = make_run(data={"nodes": 4}, options=options(optimizer={}))
    context, (own,) = left_behind(run, {0: 1.0})
    visit = visit_of(context, own)
    visit.content = RecordDict({OPTIMIZER: enclosed(own)})
    with pytest.raises(PacketError, match="not a tunable's"):
        Optimizer().fit(visit, lambda tensors, **keywords: None, own.decoded())  # type: ignore[arg-type,return-value]
