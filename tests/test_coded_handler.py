"""A node feeds back what it has not sent, once: whatever is asked twice, or answered in vain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from mfd_flower.coded_handler import RESIDUAL, coded, digest, fed_back
from mfd_flower.config import RunConfig, WireConfig
from mfd_flower.handlers import StrategyClientApp
from mfd_flower.node import initial_tunables
from mfd_flower.packets import PacketError
from mfd_flower.records import from_bytes, tensors_of, to_bytes
from mfd_flower.runtime import LocalGrid
from mfd_flower.wire_codec import coded_content, decoded_content, shapes_of, with_update
from tests.test_wire_codec import SHAPES, WIRES, drawn, equal, flat, received, whole_numbers


def asked_for(seed: int, number: int, wire: WireConfig) -> RecordDict:
    settings_ = ConfigRecord({"server-round": number})
    content = RecordDict({"arrays": ArrayRecord(drawn(seed)), "config": settings_})
    return coded_content(content, wire, SHAPES)


@given(
    wire=st.sampled_from([wire for wire in WIRES if wire.codec != "int8"]),
    asked=st.lists(st.tuples(st.integers(0, 2**32), st.integers(1, 3)), min_size=1, max_size=6),
)
@settings(max_examples=60)
def test_a_request_that_comes_again_is_answered_again_and_counts_once(
    wire: WireConfig, asked: list[tuple[int, int]]
) -> None:
    """Each pair is an update and how often it is asked for; the state passes through its bytes."""
    state, sent, wanted = RecordDict(), torch.zeros(24), torch.zeros(24)
    for number, (seed, times) in enumerate(asked):
        update = whole_numbers(seed)
        answers = []
        for _ in range(times):
            answers.append(fed_back(update, wire, state, f"request {number}"))
            state = from_bytes(to_bytes(state))
        assert len({to_bytes(RecordDict({"": answer})) for answer in answers}) == 1
        sent, wanted = sent + flat(received(answers[0], wire)), wanted + flat(update)
    assert torch.equal(sent + flat(tensors_of(state.array_records[RESIDUAL])), wanted)


def test_what_cannot_be_sent_changes_no_state() -> None:
    wire, state = WireConfig("fp16", 0.5), RecordDict()
    fed_back(drawn(0), wire, state, "first")
    before = to_bytes(state)
    with pytest.raises(PacketError):
        fed_back({**drawn(1), "s": torch.tensor(torch.nan)}, wire, state, "second")
    assert to_bytes(state) == before


@pytest.mark.parametrize(
    "wire", [WireConfig("int8"), WireConfig("bf16", 0.3), WireConfig("fp32", 0.3)]
)
def test_a_handler_sees_plain_arrays_and_its_update_travels(wire: WireConfig) -> None:
    seen: list[RecordDict] = []

    def shifted(message: Message, context: Context) -> Message:
        seen.append(message.content)
        arrays = tensors_of(message.content.array_records["arrays"])
        moved = ArrayRecord({name: tensor + 1.0 for name, tensor in arrays.items()})
        content = RecordDict({"arrays": moved, "note": ConfigRecord({"a": 1})})
        return Message(content, reply_to=message)

    tensors, asked = drawn(2), asked_for(2, 1, wire)
    as_sent = to_bytes(asked)
    with LocalGrid(coded(shifted, wire, SHAPES), 1) as grid:  # type: ignore[arg-type]
        (reply,) = grid.send_and_receive([Message(asked, 1, "train")])
    assert list(seen[0]) == ["arrays", "config"]
    assert list(reply.content) == ["update", "note"]
    assert to_bytes(asked) == as_sent
    start = tensors_of(seen[0].array_records["arrays"])
    assert equal(start, tensors) == (wire.codec == "fp32")
    update = reply.content.array_records["update"]
    back = tensors_of(with_update(ArrayRecord(tensors), update, wire, SHAPES))
    moved = flat(back) - flat(tensors)
    chosen = moved[moved != 0]
    assert len(chosen) == (24 if wire.top_k == 1 else 8)
    assert torch.allclose(chosen, torch.ones(len(chosen)), atol=0.02)


def test_a_request_is_known_again_by_all_that_is_in_it() -> None:
    wire = WireConfig("fp16")
    one, again = (digest(asked_for(0, 1, wire)) for _ in range(2))
    assert one == again
    assert len({one, digest(asked_for(0, 2, wire)), digest(asked_for(1, 1, wire))}) == 3


def test_the_default_handlers_train_and_measure_what_they_were_sent(
    make_run: Callable[..., RunConfig],
) -> None:
    """The same as without a codec on the tunables that a node decodes."""
    plain = make_run("fedavg", model={"tune": "head"})
    wire = WireConfig("int8")
    run = make_run("fedavg", model={"tune": "head"}, wire={"codec": "int8"})
    tensors = dict(initial_tunables(run))
    shapes = shapes_of(tensors)
    content = RecordDict({"arrays": ArrayRecord(tensors), "c": ConfigRecord({"server-round": 1})})
    sent = coded_content(content, wire, shapes)
    rounded = decoded_content(sent, wire, shapes)
    answers = {}
    for name, settings_, asked in (("coded", run, sent), ("plain", plain, rounded)):
        with LocalGrid(StrategyClientApp(), 3, settings_.flat()) as grid:
            for kind in ("train", "evaluate"):
                (reply,) = grid.send_and_receive([Message(asked, 2, kind)])
                answers[name, kind] = reply.content
            state = grid.contexts[2].state
            assert (RESIDUAL in state) == (name == "coded")
    for kind in ("train", "evaluate"):
        ours, theirs = answers["coded", kind], answers["plain", kind]
        assert ours.metric_records["metrics"] == theirs.metric_records["metrics"]
    start = tensors_of(rounded.array_records["arrays"])
    trained = tensors_of(answers["plain", "train"].array_records["arrays"])
    update = answers["coded", "train"].array_records["update"]
    moves = tensors_of(with_update(zeros(shapes), update, wire, shapes))
    for name, tensor in trained.items():
        step = (tensor - start[name]).abs().max() / 127
        assert torch.allclose(moves[name], tensor - start[name], rtol=0, atol=float(step))


def zeros(shapes: dict[str, tuple[int, ...]]) -> ArrayRecord:
    return ArrayRecord({name: torch.zeros(shape) for name, shape in shapes.items()})
