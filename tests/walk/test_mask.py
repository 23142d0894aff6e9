"""A mask hides the sums on their way, changes none of them, and fails by name without its owner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.sums import Sums
from mfd_flower.packets import masked, rice
from mfd_flower.packets.frame import PacketError
from mfd_flower.records import tensors_of
from mfd_flower.runtime.runner import RunFailedError, run_locally
from mfd_flower.walk import WalkFailedError
from mfd_flower.walk.custody import PACKET, packet_in, sealed
from mfd_flower.walk.hop import hop
from tests.harness import Trial, trial
from tests.scheduled_faults import Fault

NODES = 5
CELLS = 97 * 10 + 96 * 97 // 2


@pytest.fixture
def settings(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def build(mask: dict[str, Any] | None, **tables: Any) -> RunConfig:
        traits = {**({} if mask is None else {"mask": mask}), **tables.pop("traits", {})}
        options = {"traits": traits, **tables.pop("options", {})}
        data = {"nodes": NODES, "train_samples": 100, "partition": "classes", "classes": 2}
        tables.setdefault("model", {"tune": "head"})
        return make_run("exact-walk", 1, data=data, options=options, **tables)

    return build


def sent(found: Trial) -> list[bytes]:
    """Return the payload of each packet but the first, of nobody's sums."""
    packets = [packet_in(request.content) for request, _ in found.grid.of("train.hop")]
    return [next(iter(p.payload.values())).numpy().tobytes() for p in packets[1:]]


def model(found: Trial, place: int = -1) -> dict[str, torch.Tensor]:
    arrays = found.models[place]
    assert isinstance(arrays, ArrayRecord)
    return tensors_of(arrays)


@pytest.mark.parametrize("start_node", [0, 3])
@pytest.mark.parametrize("topology", ["full", "ring"])
def test_the_head_is_that_of_sums_without_a_mask(
    settings: Callable[..., RunConfig], start_node: int, topology: str
) -> None:
    told = {"policy": {"name": "random", "advert_hops": 0, "start_node": start_node}}
    plain, hidden = (
        trial(settings(mask, options=dict(told), network={"topology": topology}))
        for mask in (None, {})
    )
    for name, tensor in model(plain).items():
        assert torch.equal(model(hidden)[name], tensor)
    assert vars(hidden.strategy)["included"] == vars(plain.strategy)["included"]
    for place in range(len(hidden.models) - 1):
        assert torch.equal(model(hidden, place)["head.weight"], model(hidden, 0)["head.weight"])


def test_what_travels_is_no_sum_and_another_in_every_run(
    settings: Callable[..., RunConfig],
) -> None:
    first, second = (sent(trial(settings({}))) for _ in range(2))
    plain = sent(trial(settings(None)))
    assert len(first) == len(plain) + 1 == NODES
    for one, other in zip(first, second, strict=True):
        assert len(one) == len(other) == 3 * CELLS
        assert np.mean(np.frombuffer(one, np.uint8) == np.frombuffer(other, np.uint8)) < 0.02
    for data in first:
        with pytest.raises(PacketError):
            rice.decode(data, CELLS)


def test_two_neighbours_on_the_route_see_what_is_between_them(
    settings: Callable[..., RunConfig],
) -> None:
    """It is said in the docs, and this is why."""
    hidden, plain = trial(settings({"width_bits": 24})), trial(settings(None))
    before, after = (masked.decode(data, CELLS, 24).astype(np.int64) for data in sent(hidden)[:2])
    known = [Sums.from_bytes(data, 96, 10).cells for data in sent(plain)[:2]]
    assert ((after - before) % 2**24).tolist() == ((known[1] - known[0]) % 2**24).tolist()


def test_without_its_owner_the_result_fails_by_name(settings: Callable[..., RunConfig]) -> None:
    gone = Fault("asleep", "n0", message_type="train.hop", occurrence=2, span=None)
    with pytest.raises(WalkFailedError, match="mask: n0, which has the sums' mask, does not"):
        trial(settings({}), [gone], timeout=0.2)


def test_a_mask_that_a_node_never_drew_is_named(settings: Callable[..., RunConfig]) -> None:
    """A holder that names another node as the owner gets one line."""
    found = trial(settings({}))
    last = packet_in(found.grid.of("train.hop")[-1][0].content)
    forged = replace(last, destination="n3", meeting="n3")
    state = found.contexts["n3"].state
    kept = {name: state[name] for name in state if name.startswith("counted/")}
    context = Context(1, 1, {"partition-id": 3}, RecordDict(kept), found.run.flat())
    message = Message(RecordDict({PACKET: sealed(forged)}), 1, "train.hop")
    with pytest.raises(PacketError, match="meeting = n3: it has no mask of this tour"):
        hop(message, context)


def test_sums_that_do_not_fit_under_it_fail_by_name(settings: Callable[..., RunConfig]) -> None:
    said = r"n\d: .*options.traits.mask.width_bits = 12: sums of \d+ samples need 1[34]"
    with pytest.raises(RunFailedError, match=said):
        run_locally(settings({"width_bits": 12}))


def test_a_session_may_come_first(settings: Callable[..., RunConfig]) -> None:
    tuned = {"tune": "prompts", "prompts": 2, "prompt_from": 5}
    plain, hidden = (
        trial(settings(mask, model=tuned, options={"session": 2})) for mask in (None, {})
    )
    for name, tensor in model(plain).items():
        assert torch.equal(model(hidden)[name], tensor)


def test_what_does_not_go_with_it_is_refused(settings: Callable[..., RunConfig]) -> None:
    for run, said in (
        (settings({}, options={"walkers": 2}), "options.traits.mask = {}: accepted with one"),
        (settings({}, traits={"admission": {}, "ledger": {}}), "admission"),
        (settings({"width_bits": 63}), "options.traits.mask.width_bits = 63"),
    ):
        with pytest.raises(ConfigError, match=said):
            trial(run)
