"""What leaves a node in HFSL, what a failure costs, and what is needed to meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from mfd_flower.client_app import app
from mfd_flower.config import RunConfig
from mfd_flower.data import load_federation
from mfd_flower.models import build_model, input_spec
from mfd_flower.models.stages import split_model
from mfd_flower.models.tunables import get_tunables
from mfd_flower.node import Node, evaluate_tunables
from mfd_flower.runtime import LocalGrid, MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid, run_locally, run_on
from mfd_flower.split.links import Link
from mfd_flower.split.roster import NotMetError, Roster
from mfd_flower.strategy import build_strategy
from strategies import hfsl as hfsl_module
from strategies.hfsl import HFSL
from tests.harness import Trial, trial

MakeRun = Callable[..., RunConfig]
SGD = {"optimizer": "sgd", "lr": 0.3, "batch_size": 8}


@pytest.fixture
def on_links(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Tensor]]:
    """Every tensor that any link carries: from, to, values."""
    sent: list[tuple[str, str, Tensor]] = []
    lock, send = threading.Lock(), Link.send

    def spy(link: Link, tensor: Tensor) -> None:
        with lock:
            sent.append((link.own, link.peer, tensor.detach().clone()))
        send(link, tensor)

    monkeypatch.setattr(Link, "send", spy)
    return sent


def is_part_of(tensor: Tensor, whole: Tensor) -> bool:
    """Say whether the rows of a batch are all rows of `whole`."""
    if tensor.shape[1:] != whole.shape[1:] or not len(tensor):
        return False
    rows = {row.numpy().tobytes() for row in whole}
    return all(row.contiguous().numpy().tobytes() in rows for row in tensor)


@pytest.mark.parametrize("u_shape", [False, True])
def test_no_frozen_weight_no_image_and_no_label_leaves_its_node(
    make_run: MakeRun, on_links: list[tuple[str, str, Tensor]], u_shape: bool
) -> None:
    options = {"cluster_size": 3, "u_shape": u_shape}
    run = make_run("hfsl", rounds=2, options=options, train=SGD)
    found = trial(run)
    model = build_model(run.model, 10, run.seed)
    parts = [get_tunables(s.part) for s in split_model(model, [2, 4], u_shape=u_shape)]
    if u_shape:
        parts[0] |= parts.pop()
    allowed = {f"n{i}": part for i, part in enumerate(parts)}
    pairs = found.grid.of("train.stage")
    assert found.grid.kinds == {"train.stage": 2 * 3} == {"train.stage": len(pairs)}
    for request, reply in pairs:
        assert reply is not None
        own = allowed[found.grid.address(request.metadata.dst_node_id)]
        assert set(request.content) == {"arrays", "roster"}
        assert set(reply.content) == {"arrays", "metrics"}
        assert set(reply.content.metric_records["metrics"]) <= {"num-examples", "train-loss"}
        for message in (request, reply):
            arrays = message.content.array_records["arrays"].to_torch_state_dict()
            # Exactly the tunables of this node's stage: nothing of the backbone, nothing of others.
            assert {n: t.shape for n, t in arrays.items()} == {n: t.shape for n, t in own.items()}
    node = Node(run, 0)
    federation = load_federation(run.data, run.seed)
    images = federation.samples(federation.shares[0], input_spec(model.backbone)).inputs
    frozen = [p for p in model.parameters() if not p.requires_grad]
    labels = [(a, b, t) for a, b, t in on_links if t.dtype == torch.int64 and len(t) == 16]
    assert [(a, b) for a, b, _ in labels] == ([] if u_shape else [("n0", "n2")] * 2)
    for _, _, tensor in labels:
        assert sorted(tensor.tolist()) == sorted(node.samples.labels.tolist())
    for _, _, tensor in on_links:
        assert not is_part_of(tensor, images)
        assert not is_part_of(tensor, node.samples.inputs)
        assert not any(tensor.shape == p.shape and torch.equal(tensor, p) for p in frozen)
        smashed = tensor.ndim == 3 and tensor.shape[1:] in ((17, 96), (1, 96))
        assert smashed or tensor.dtype == torch.int64


def after(found: Trial, number: int) -> dict[str, Tensor]:
    """Return the model after a round."""
    arrays = found.models[number]
    assert isinstance(arrays, ArrayRecord)
    return dict(arrays.to_torch_state_dict())


def fail_once(monkeypatch: pytest.MonkeyPatch, number: int, address: str) -> None:
    work = hfsl_module.train_position

    def failing(roster: Roster, position: int, *args: Any, **keywords: Any) -> Any:
        if roster.round == number and roster.members[position] == address:
            with roster.join(position):
                raise MemoryError("no room left")
        return work(roster, position, *args, **keywords)

    monkeypatch.setattr(hfsl_module, "train_position", failing)


def test_a_failure_costs_the_cluster_a_round_and_the_node_its_place(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, 2, "n1")
    data = {"nodes": 5}
    run = make_run(
        "hfsl", rounds=3, data=data, train=SGD, options={"clusters": 2, "cluster_size": 2}
    )
    found = trial(run)
    assert len(found.grid.failures) == 1
    assert "MemoryError: no room left" in found.grid.failures[0]
    # The idle n4 takes the place of n1.
    rounds = ["n0", "n1", "n2", "n3"], ["n2", "n3"], ["n0", "n4", "n2", "n3"]
    assert found.grid.visits == [name for trained in rounds for name in trained]
    # What the other cluster learnt in that round counts alone.
    expected, _ = Node(run, 2).fit(after(found, 1), step=2)
    torch.testing.assert_close(after(found, 2), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lost", ["n0", "n2"])
def test_survivors_share_the_blocks_if_nobody_is_idle(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    fail_once(monkeypatch, 1, lost)
    run = make_run("hfsl", rounds=2, train=SGD, options={"cluster_size": 3})
    found = trial(run)
    left = [name for name in ("n0", "n1", "n2") if name != lost]
    assert found.grid.visits == left
    torch.testing.assert_close(after(found, 1), after(found, 0), rtol=0, atol=0)
    expected, _ = Node(run, int(left[0][1:])).fit(after(found, 1), step=2)
    torch.testing.assert_close(after(found, 2), expected, rtol=0, atol=1e-6)


def test_too_few_at_once_is_said_and_never_hangs(make_run: MakeRun) -> None:
    run = make_run("hfsl", options={"cluster_size": 3, "meet_s": 0.3})
    with (
        LocalGrid(app, 3, run.flat(), workers=2) as grid,
        pytest.raises(NotMetError, match=r"n2 did not come within 0\.3 s.*; 3 nodes must run at"),
    ):
        run_on(grid, run)


@pytest.mark.parametrize("options", [{}, {"u_shape": True, "edge_stages": [1], "codec": "bf16"}])
@pytest.mark.parametrize("whole", [False, True])
def test_a_cluster_answers_as_the_whole_model_does(
    make_run: MakeRun, on_links: list[tuple[str, str, Tensor]], options: dict[str, Any], whole: bool
) -> None:
    run = make_run("hfsl", options={"cluster_size": 3, **options})
    model = build_model(run.model, 10, run.seed)
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in get_tunables(model).items()
    }
    strategy = build_strategy(run)
    assert isinstance(strategy, HFSL)
    with local_grid(run) as inner:
        grid = MeteredGrid(inner, addresses=call_roll(inner, 3))
        service = strategy.service(grid, ArrayRecord(tensors), whole=whole)
        service.deliver(60)
        shipped = grid.totals()["payload"]
        answer = service.ask(40, 60)
    tolerance = 0.05 if "codec" in options else 1e-6
    assert answer["samples"] == 40
    assert answer["accuracy"] == pytest.approx(
        evaluate_tunables(run, tensors).accuracy, abs=tolerance
    )
    sizes = {name: p.nbytes for name, p in model.named_parameters() if whole or p.requires_grad}
    if options:
        held = split_model(model, [2, 4], u_shape=True)[1].part
        sizes = {n: b for n, b in sizes.items() if n not in dict(held.named_parameters())}
    assert shipped == sum(sizes.values())
    # Logits reach the asker, and only it; no one trains.
    logits = [(a, b) for a, b, t in on_links if t.ndim == 2]
    assert {b for _, b in logits} <= {"n0"}
    assert grid.updates == 0


def test_a_run_of_one_round_reports_all_six_metrics(make_run: MakeRun) -> None:
    point = run_locally(make_run("hfsl", options={"cluster_size": 3}))["points"][-1]
    for name in ("accuracy", "virtual_seconds", "flops", "joules", "peak_node_bytes"):
        assert point[name] > 0
    assert min(point["bytes"][name] for name in ("up", "down", "d2d")) > 0
