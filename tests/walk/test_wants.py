"""Interest from task, loss and features: what nodes tell, where packets go, what it costs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Message

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.residents import model_for
from mfd_flower.models.training import forward_flops
from mfd_flower.node import Node
from mfd_flower.packets import PacketError
from mfd_flower.records import text
from mfd_flower.routing import Advert, kl_divergence
from mfd_flower.routing.sketch import CHARS, Sketch, gaussian_divergence
from mfd_flower.strategy import build_strategy
from mfd_flower.walk.wants import SKETCH
from tests.harness import Tap, trial
from tests.walk.kinds import CLIENTS
from tests.walk.walks import hops, options

HALF = CLIENTS // 2
FEATURES = {"name": "kl-near", "by": "features"}
LOSS = {"name": "interest", "loss": True, "memory": 2}
ASKED = {**LOSS, "advert_hops": 0, "probes": CLIENTS}


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """Return a builder of walks over the nodes of `tests.walk.kinds`."""

    def build(policy: Any, rounds: int = 2, kind: str = "negative", **more: Any) -> RunConfig:
        data = {
            **{"name": f"tests.walk.kinds:{kind}", "partition": "by-client", "nodes": CLIENTS},
            **{"train_samples": 0, "test_samples": 40},
        }
        model = {"tune": "head", **more.pop("model", {})}
        chosen = options(policy, **more)
        return make_run("mfd-walk", rounds, data=data, model=model, options=chosen)

    return build


def adverts(grid: Tap, kind: str = "query.advert") -> list[Advert]:
    """What nodes answered to questions of a kind."""
    replies = [reply for _, reply in grid.of(kind) if reply is not None]
    return [Advert.from_text(text(r.content.config_records["advert"], "text")) for r in replies]


def is_other(address: str) -> bool:
    return int(address[1:]) >= HALF


def test_features_tell_nodes_apart_that_labels_do_not(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings("random")
    nodes = [Node(run, index) for index in range(CLIENTS)]
    sketches = [Sketch.from_text(node.sketch().to_text()) for node in nodes]
    alike, unlike = [], []
    for (a, p), (b, q) in itertools.permutations(zip(nodes, sketches, strict=True), 2):
        assert kl_divergence(a.label_counts, b.label_counts) == 0
        same = is_other(a.address) == is_other(b.address)
        (alike if same else unlike).append(gaussian_divergence(p, q))
    assert max(alike) < min(unlike) / 2


@pytest.mark.parametrize("tune", ["head", "prompts", "lora"])
def test_a_walk_by_features_comes_to_all_of_its_kind_first(
    settings: Callable[..., RunConfig], tune: str
) -> None:
    run = settings(FEATURES, rounds=1, model={"tune": tune, "prompts": 2})
    visits = trial(run).grid.visits
    assert [is_other(address) for address in visits] == [False] * HALF + [True] * HALF
    by_labels = trial(settings("kl-near", rounds=1)).grid.visits
    assert sorted(by_labels) == sorted(visits)
    assert by_labels != visits


def test_a_sketch_is_made_once_a_node_and_billed_by_its_letters(
    settings: Callable[..., RunConfig],
) -> None:
    told = trial(settings({**FEATURES, "advert_every": 1})).grid
    plain = trial(settings({"name": "kl-near", "advert_every": 1})).grid
    assert {len(advert.sketch) for advert in adverts(told)} == {CHARS}
    # Each announcement crosses one link to each neighbour: `,"s":""` beside the letters, and now
    # and then a byte more in the length of what it stands in.
    announced = 2 * CLIENTS * (CLIENTS - 1)
    more = told.wire_by_type["query.table"] - plain.wire_by_type["query.table"]
    assert CHARS + 7 <= more / announced < CHARS + 9
    once = trial(settings(FEATURES)).grid
    assert told.flops == once.flops > plain.flops


def test_what_is_frozen_in_front_of_a_sketch_is_billed_where_it_is_not_kept(
    settings: Callable[..., RunConfig],
) -> None:
    """Behind prompts a node has no features yet: a forward pass over its samples, once."""
    prompts = {"tune": "prompts", "prompts": 2}
    run = settings(FEATURES, rounds=1, model=prompts)
    extra = trial(run).grid.flops - trial(settings("kl-near", rounds=1, model=prompts)).grid.flops
    model = model_for(run)
    nodes = [Node(run, index) for index in range(CLIENTS)]
    passes = sum(forward_flops(model, node.samples, model.frozen_stage()) for node in nodes)
    assert passes < extra < 1.01 * passes


def test_a_loss_is_that_of_the_newest_model_as_it_arrived(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings(ASKED)
    grid = trial(run).grid
    arrived, seen = iter(hops(grid)), dict[str, float]()
    answers = iter(adverts(grid, "query.probe"))
    told = 0
    for request in grid.requests:
        kind, address = request.metadata.message_type, grid.address(request.metadata.dst_node_id)
        if kind == "train.hop":
            tensors = next(arrived).decoded()
            seen[address] = Node(run, int(address[1:])).evaluate(tensors).loss
        elif kind == "query.probe":
            loss, known = next(answers).loss, seen.get(address)
            told += loss is not None
            assert loss == (None if known is None else pytest.approx(known, abs=2e-4))
    assert told > CLIENTS


def test_newer_losses_replace_older_ones_in_a_holders_table(
    settings: Callable[..., RunConfig],
) -> None:
    run = settings(ASKED, rounds=3)
    found = trial(run)
    losses = dict[tuple[str, str], list[float | None]]()
    for request, _ in found.grid.of("query.table"):
        (record,) = request.content.config_records.values()
        holder = found.grid.address(request.metadata.dst_node_id)
        for address in set(record) - {"source"}:
            told = Advert.from_text(record[address][0])  # type: ignore[index,arg-type]
            losses.setdefault((holder, address), []).append(told.loss)
    changed = [(pair, told) for pair, told in losses.items() if len(set(told)) > 1]
    assert changed
    for (holder, address), told in changed:
        record = found.contexts[holder].state.config_records[f"routing-table.{address}"]
        assert Advert.from_text(text(record, "advert")).loss == told[-1]


def test_a_loss_costs_a_forward_pass_a_visit(settings: Callable[..., RunConfig]) -> None:
    run = settings({**LOSS, "advert_every": 1})
    with_loss, plain = trial(run).grid, trial(settings({**LOSS, "loss": False})).grid
    model = model_for(run)
    passes = forward_flops(model, Node(run, 0).samples, model.frozen_stage())
    assert with_loss.flops - plain.flops == len(with_loss.visits) * passes


def test_who_tells_nothing_of_it_is_not_asked(settings: Callable[..., RunConfig]) -> None:
    for policy in ("interest", "kl-near", "label-balance"):
        found = trial(settings(policy, rounds=1))
        for advert in adverts(found.grid):
            assert (advert.task, advert.loss, advert.sketch) == ("", None, "")
        assert all(SKETCH not in context.state for context in found.contexts.values())
        assert {packet.task for packet in hops(found.grid)} == {""}


def test_a_packet_stays_with_the_nodes_of_its_task(settings: Callable[..., RunConfig]) -> None:
    """Whatever its memory says, so long as there are such nodes."""
    policy = {"name": "interest", "task": True}
    for start, other in ((0, False), (HALF, True)):
        grid = trial(settings({**policy, "start_node": start}, kind="two_tasks")).grid
        assert {is_other(address) for address in grid.visits} == {other}
        assert len(set(grid.visits)) == HALF
        assert len({packet.task for packet in hops(grid)}) == 1
    everywhere = trial(settings("interest", kind="two_tasks")).grid.visits
    assert len(set(everywhere)) == CLIENTS


def test_two_walkers_share_the_nodes_by_their_tasks(settings: Callable[..., RunConfig]) -> None:
    run = settings({"name": "interest", "task": True}, kind="two_tasks", walkers=2)
    found = trial(run)
    packets = [packet for packet in hops(found.grid) if packet.ttl > run.data.nodes]
    assert {packet.walker for packet in packets} == {"w0", "w1"}
    for packet in packets:
        assert is_other(packet.destination) == (packet.walker == "w1")
    models = found.models[-1]
    assert isinstance(models, dict)
    assert set(models) == {"w0", "w1"}, "two tasks are no one model"


def test_another_tasks_node_is_the_last_resort(settings: Callable[..., RunConfig]) -> None:
    """With all of its own gone a packet goes on, to others."""
    silent = {f"n{index}" for index in range(1, HALF)}

    def change(request: Message) -> None:
        if request.metadata.message_type == "query.table":
            records = request.content.config_records["adverts"]
            for address in silent & set(records):
                del records[address]

    run = settings({"name": "interest", "task": True}, rounds=1, kind="two_tasks")
    visits = trial(run, change=change).grid.visits
    assert visits[0] == "n0"
    assert {is_other(address) for address in visits[1:]} == {True, False}
    assert is_other(visits[1])


def test_a_packets_task_is_checked_where_it_lands(settings: Callable[..., RunConfig]) -> None:
    grid = trial(settings({"name": "interest", "task": True}, rounds=1, kind="two_tasks")).grid
    packet = hops(grid)[0]
    assert len(packet.task) == 8
    with pytest.raises(PacketError, match=r"task = 'tools': must be 8 hexadecimal digits"):
        dataclasses.replace(packet, task="tools")


def test_sums_have_no_loss(make_run: Callable[..., RunConfig]) -> None:
    told = {"policy": {**LOSS, "advert_every": 1}}
    grid = trial(make_run("exact-walk", rounds=2, options=told, model={"tune": "head"})).grid
    assert not grid.failures
    assert {advert.loss for advert in adverts(grid)} == {None}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (LOSS, r"options\.policy\.loss = True: needs `advert_every` or `probes`"),
        ({**ASKED, "noise_epsilon": 1.0}, r"policy\.noise_epsilon = 1\.0: 0 with `loss` or by"),
        ({**FEATURES, "noise_epsilon": 1.0}, r"policy\.noise_epsilon = 1\.0: 0 with `loss` or by"),
        ({"name": "kl-near", "by": "pixels"}, r"options\.policy\.by = 'pixels': accepted: labels"),
        ({"name": "interest", "loss": 1}, r"options\.policy\.loss = 1: must be true or false"),
        ({"name": "interest", "task": "a"}, r"options\.policy\.task = 'a': must be true or false"),
        ({"name": "label-balance", "loss": True}, r"options\.policy\.loss = True: accepted: name"),
    ],
)
def test_what_a_policy_cannot_have_is_refused_before_the_walk(
    make_run: Callable[..., RunConfig], policy: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_strategy(make_run("mfd-walk", options={"policy": policy}))
