"""A session tunes as a walk does; sums are of what it froze, which goes to who lacks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import solve
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.residents import shard
from mfd_flower.models.rounded import Rounding, head_inputs, scale_of
from mfd_flower.models.sums import Sums
from mfd_flower.node import initial_tunables, loaded_model, with_head
from mfd_flower.packets import Packet
from mfd_flower.records import tensors_of
from mfd_flower.walk.custody import PACKET, UNTAKEN, packet_in
from mfd_flower.walk.hop import hop
from tests.harness import Trial, trial, whole_and_stopped
from tests.walk.walks import options

NODES = 4
POLICY = {"name": "round-robin", "advert_hops": 0}


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(session: int, tune: str = "prompts", **tables: Any) -> RunConfig:
        told = {"session": session, **tables.pop("options", {})}
        model = {"tune": tune, "prompts": 2, "prompt_from": 4, "lora_rank": 2}
        return make_run(
            "exact-walk",
            3,
            data={"nodes": NODES, "train_samples": 60},
            model={**model, **tables.pop("model", {})},
            options=told,
            **tables,
        )

    return build


def frozen_by(found: Trial) -> dict[str, torch.Tensor]:
    """Return the tunables that travelled beside the first sums."""
    request = next(q for q in found.grid.requests if "frozen" in q.content)
    return packet_in(request.content, "frozen").decoded()


def whole(run: RunConfig, frozen: dict[str, torch.Tensor]) -> Sums:
    """Return the sums of all data in one place, of features that these tunables make."""
    model = loaded_model(run, {**initial_tunables(run), **frozen})
    scale, total = scale_of(run, Rounding()), None
    for node in range(NODES):
        samples = shard(run, node)
        features = scale.rounded(head_inputs(run, model, samples))
        part = Sums.of(features, samples.labels.numpy(), federation_of(run).num_classes)
        total = part if total is None else total + part
    assert total is not None
    return total


def last_packet(found: Trial) -> Packet:
    replies = [reply for _, reply in found.grid.of("train.hop") if reply is not None]
    return packet_in(replies[-1].content)


@pytest.mark.parametrize(
    ("tune", "session", "levels"),
    [("prompts", 1, ""), ("prompts", 2, "3,6"), ("prompts", 6, ""), ("lora", 2, "")],
)
def test_sums_are_of_what_a_walk_of_so_many_visits_tunes(
    settings: Callable[..., RunConfig],
    make_run: Callable[..., RunConfig],
    tune: str,
    session: int,
    levels: str,
) -> None:
    run = settings(session, tune, model={"levels": levels})
    found = trial(run)
    walk = make_run(
        "mfd-walk",
        3,
        data={"nodes": NODES, "train_samples": 60},
        model={"tune": tune, "prompts": 2, "prompt_from": 4, "lora_rank": 2, "levels": levels},
        options=options(POLICY, codec={"name": "fp16"}),
    )
    walked = trial(walk).models[session]
    assert isinstance(walked, ArrayRecord)
    frozen = frozen_by(found)
    assert frozen
    for name, tensor in tensors_of(walked).items():
        if not name.startswith("head."):
            assert torch.equal(frozen[name], tensor)
    sums = whole(run, frozen)
    assert last_packet(found).decoded()["sums"].numpy().tobytes() == sums.to_bytes()
    start = {**initial_tunables(run), **frozen}
    wanted = with_head(run, start, solve("ridge", sums), Rounding())
    model = found.models[-1]
    assert isinstance(model, ArrayRecord)
    assert all(torch.equal(t, wanted[name]) for name, t in tensors_of(model).items())


def test_what_is_frozen_goes_once_to_each_node_that_lacks_it(
    settings: Callable[..., RunConfig],
) -> None:
    """On a ring the packet passes nodes that have it; these are not sent it again."""
    run = settings(1, network={"topology": "ring"})
    found = trial(run)
    carried = [q for q, _ in found.grid.of("train.hop") if "frozen" in q.content]
    receivers = [packet_in(q.content).destination for q in carried]
    assert sorted(receivers) == ["n1", "n2", "n3"]


def test_frozen_parts_are_billed_in_the_codec_that_they_travel_in(
    settings: Callable[..., RunConfig],
) -> None:
    payloads = {}
    for codec in ("fp32", "fp16"):
        found = trial(settings(1, options={"codec": codec}))
        sums = sum(
            len(packet_in(q.content).payload["sums"])
            for q, _ in found.grid.of("train.hop")
            if "frozen" in q.content
        )
        payloads[codec] = found.grid.totals()["payload"] - sums
    assert payloads["fp32"] == 2 * payloads["fp16"]
    values = sum(t.numel() for t in initial_tunables(settings(1)).values())
    head = 97 * 10
    assert payloads["fp16"] == 2 * (values + (NODES - 1) * (values - head))


def test_a_killed_session_goes_on(settings: Callable[..., RunConfig], tmp_path: Path) -> None:
    whole, again, _ = whole_and_stopped(settings(2), tmp_path, 1, 3)
    assert again == whole


def frozen_record(found: Trial) -> ConfigRecord:
    """Return the record of what was frozen as it travelled first."""
    request = next(q for q, _ in found.grid.of("train.hop") if "frozen" in q.content)
    return request.content.config_records["frozen"]


def arriving(found: Trial, change: Callable[[RecordDict], None]) -> RecordDict:
    """Let the second packet of sums land anew, with its message changed."""
    run = found.run
    request = [q for q, _ in found.grid.of("train.hop") if "frozen" in q.content][1]
    content = RecordDict({name: request.content[name] for name in request.content})
    change(content)
    index = int(packet_in(content).destination.removeprefix("n"))
    context = Context(1, 1, {"partition-id": index}, RecordDict(), run.flat())
    return hop(Message(content, 1, "train.hop"), context).content


def test_sums_without_what_they_are_of_are_named(settings: Callable[..., RunConfig]) -> None:
    found = trial(settings(1))
    content = arriving(found, lambda content: content.pop("frozen"))
    assert "did not come along" in str(content.config_records[UNTAKEN]["text"])


def test_sums_of_another_session_are_named(settings: Callable[..., RunConfig]) -> None:
    found, other = trial(settings(1)), trial(settings(2))
    strange = frozen_record(other)
    content = arriving(found, lambda content: content.update({"frozen": strange}))
    assert "sums of others" in str(content.config_records[UNTAKEN]["text"])


def test_frozen_parts_of_another_model_are_named(settings: Callable[..., RunConfig]) -> None:
    found, other = trial(settings(1)), trial(settings(1, "lora"))
    strange = frozen_record(other)
    with pytest.raises(ValueError, match=r"frozen backbone.*: of this model are prompts\.4"):
        arriving(found, lambda content: content.update({"frozen": strange}))


def test_a_session_that_is_over_takes_no_model(settings: Callable[..., RunConfig]) -> None:
    found = trial(settings(3))
    request = found.grid.of("train.hop")[2][0]
    run = settings(2)
    index = int(packet_in(request.content).destination.removeprefix("n"))
    context = Context(1, 1, {"partition-id": index}, RecordDict(), run.flat())
    content = hop(Message(RecordDict({PACKET: request.content[PACKET]}), 1, "train.hop"), context)
    told: ConfigRecord = content.content.config_records[UNTAKEN]
    assert told["text"] == "hop = 3: the session has 2"


def test_sessions_that_cannot_be_are_refused(settings: Callable[..., RunConfig]) -> None:
    for run, said in (
        (settings(0), "model.tune = 'prompts': accepted without a session: head"),
        (settings(1, "head"), "model.tune = 'head': accepted with a session: prompts, lora"),
        (settings(1, options={"walkers": 2}), "options.session = 1: accepted with one walker"),
        (settings(-1), "options.session = -1"),
        (settings(1, options={"codec": "bytes"}), "options.codec = 'bytes'"),
    ):
        with pytest.raises(ConfigError, match=said):
            trial(run)


def test_the_scale_is_of_the_backbone_alone(settings: Callable[..., RunConfig]) -> None:
    """Whatever was loaded into this thread's model last."""
    run = settings(1)
    before = scale_of(run, Rounding())
    loaded_model(run, {n: torch.ones_like(t) for n, t in initial_tunables(run).items()})
    np.testing.assert_array_equal(scale_of(run, Rounding()).factor, before.factor)
