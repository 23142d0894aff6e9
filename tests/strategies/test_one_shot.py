"""Stars that ask once: what comes of the sums is what all data in one place would give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import class_means, fedcof, solve
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.residents import shard
from mfd_flower.models.rounded import Rounding, scale_of
from mfd_flower.models.sums import Sums, cross_to_bytes
from mfd_flower.node import initial_tunables, with_head
from mfd_flower.packets import rice
from mfd_flower.records import tensors_of
from tests.harness import trial, whole_and_stopped
from tests.scheduled_faults import Fault

MakeRun = Callable[..., RunConfig]
HEAD = {"tune": "head"}
STARS = ["ridge", "class-means", "fedcof"]
KINDS = {"ridge": "train.sums", "class-means": "train.class_sums", "fedcof": "train.class_sums"}


def sums_of(run: RunConfig, nodes: range) -> list[Sums]:
    scale, classes = scale_of(run, Rounding()), federation_of(run).num_classes
    shards = [shard(run, node) for node in nodes]
    return [Sums.of(scale.rounded(s.inputs[:].numpy()), s.labels.numpy(), classes) for s in shards]


def wanted(run: RunConfig, parts: list[Sums]) -> dict[str, torch.Tensor]:
    """Return the model by the closed form over all data at once."""
    total = sum(parts[1:], parts[0])
    heads = {
        "ridge": lambda: solve("ridge", total),
        "class-means": lambda: class_means(total.cross),
        "fedcof": lambda: fedcof([part.cross for part in parts], 1.0 / Rounding().step ** 2),
    }
    return with_head(run, initial_tunables(run), heads[run.strategy.name](), Rounding())


def equal(model: ArrayRecord, tensors: dict[str, torch.Tensor]) -> bool:
    found = tensors_of(model)
    return found.keys() == tensors.keys() and all(
        torch.allclose(found[name], tensors[name], rtol=1e-4, atol=1e-5) for name in found
    )


@pytest.mark.parametrize("strategy", STARS)
@pytest.mark.parametrize(
    "partition", [{"partition": "iid"}, {"partition": "classes", "classes": 2}]
)
def test_a_star_ends_with_the_closed_form_over_all_data(
    make_run: MakeRun, strategy: str, partition: dict[str, object]
) -> None:
    run = make_run(strategy, 3, model=HEAD, data={**partition, "nodes": 5})
    found = trial(run)
    assert found.steps == [0, 1]
    assert equal(found.models[-1], wanted(run, sums_of(run, range(5))))
    assert sorted(found.grid.visits) == ["n0", "n1", "n2", "n3", "n4"]


@pytest.mark.parametrize("strategy", STARS)
def test_nodes_may_upload_in_turn(make_run: MakeRun, strategy: str) -> None:
    whole = trial(make_run(strategy, 9, model=HEAD, data={"nodes": 5}))
    run = make_run(strategy, 9, model=HEAD, data={"nodes": 5}, options={"clients": 2})
    found = trial(run)
    assert found.steps == [0, 1, 2, 3]
    assert equal(found.models[-1], tensors_of(whole.models[-1]))
    assert len(set(found.grid.visits)) == 5
    other = make_run(strategy, 9, 1, model=HEAD, data={"nodes": 5}, options={"clients": 2})
    assert trial(other).grid.visits != found.grid.visits


def test_payload_is_what_the_sums_take_on_the_wire(make_run: MakeRun) -> None:
    run = make_run("ridge", model=HEAD)
    parts = sums_of(run, range(3))
    assert trial(run).grid.totals()["payload"] == sum(len(part.to_bytes()) for part in parts)
    run = make_run("class-means", model=HEAD)
    size = sum(len(cross_to_bytes(part.cross)) for part in parts)
    assert trial(run).grid.totals()["payload"] == size


@pytest.mark.parametrize("strategy", STARS)
def test_who_did_not_answer_is_asked_again_and_nobody_else(
    make_run: MakeRun, strategy: str
) -> None:
    run = make_run(strategy, 4, model=HEAD)
    lost = Fault("request-lost", "n1", message_type=KINDS[strategy])
    found = trial(run, faults=[lost])
    assert found.steps == [0, 1, 2]
    assert found.grid.kinds[KINDS[strategy]] == 4
    assert equal(found.models[-1], tensors_of(trial(run).models[-1]))
    short = make_run(strategy, 1, model=HEAD)
    (_, without) = trial(short, faults=[lost]).models
    n0, _, n2 = sums_of(short, range(3))
    assert equal(without, wanted(short, [n0, n2]))


@pytest.mark.parametrize("strategy", STARS)
def test_an_answer_that_is_no_sums_counts_as_none(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    run, honest, forged = make_run(strategy, 2, model=HEAD), rice.encode, [bytes(7)]
    known = trial(run)
    monkeypatch.setattr(rice, "encode", lambda x: forged.pop() if forged else honest(x))
    found = trial(run, workers=1)
    assert found.grid.failures[0].startswith("its answer is refused: sums: ")
    assert len(found.grid.failed) == 1
    assert found.steps == [0, 1, 2]
    assert equal(found.models[-1], tensors_of(known.models[-1]))


@pytest.mark.parametrize("strategy", STARS)
def test_a_star_goes_on_from_a_checkpoint(make_run: MakeRun, tmp_path: Path, strategy: str) -> None:
    run = make_run(strategy, 9, model=HEAD, data={"nodes": 5}, options={"clients": 2})
    whole, again, _ = whole_and_stopped(run, tmp_path, 2)
    assert again == whole


def test_what_a_star_cannot_use_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"model.tune = 'prompts': accepted here: head"):
        trial(make_run("ridge"))
    for options, said in (
        ({"features": {"bits": 1}}, r"options.features.bits = 1: .*2"),
        ({"features": {"bit": 3}}, r"options.features.bit = 3: "),
        ({"head": "oracle"}, r"options.head = 'oracle': .*ridge, discriminant"),
    ):
        with pytest.raises(ConfigError, match=said):
            trial(make_run("ridge", model=HEAD, options=options))
