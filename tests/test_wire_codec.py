"""Nothing of an update is lost, only sent later; what a node sends is exactly that or refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.config import WireConfig
from mfd_flower.packets import PacketError, decode, encode
from mfd_flower.packets.top_k import positions_from_bytes, positions_to_bytes
from mfd_flower.records import tensors_of
from mfd_flower.wire_codec import (
    DATA,
    Tensors,
    coded_content,
    coded_update,
    decoded_content,
    shapes_of,
    with_update,
)

SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 3), "b": (5,), "s": (), "p": (1, 2, 3)}
SIZE = 24
CODED_BYTES = {"bf16": 2 * SIZE, "fp16": 2 * SIZE, "int8": SIZE + 4 * (4 + 1 + 1 + 1)}
"""Of all tensors: int8 has a scale for each row of ``w``, and one for each of the others."""
BYTES_EACH = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
LOSSY = tuple(CODED_BYTES)
WIRES = [
    *(WireConfig(codec=codec) for codec in LOSSY),  # type: ignore[arg-type]
    *(WireConfig(codec, share) for codec in BYTES_EACH for share in (0.1, 0.5, 0.999)),  # type: ignore[arg-type]
]


def drawn(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(np.asarray(scale * rng.standard_normal(shape), np.float32))
        for name, shape in SHAPES.items()
    }


def whole_numbers(seed: int) -> dict[str, Tensor]:
    """Values of which float32 adds up thousands without rounding, as halves and fp16 do not."""
    rng = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(np.asarray(rng.integers(-5000, 5000, shape) / 256, np.float32))
        for name, shape in SHAPES.items()
    }


def received(record: ArrayRecord, wire: WireConfig) -> dict[str, Tensor]:
    """Return the update that a server reads from a record."""
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    return tensors_of(with_update(ArrayRecord(zeros), record, wire, SHAPES))


def flat(tensors: Tensors) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(SHAPES)])


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def data_of(record: ArrayRecord) -> bytes:
    return bytes(record[DATA].numpy())


def record_of(data: bytes) -> ArrayRecord:
    return ArrayRecord({DATA: Array(np.frombuffer(data, np.uint8))})


@pytest.mark.parametrize("wire", WIRES, ids=str)
@given(seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=8))
@settings(max_examples=20)
def test_what_was_sent_and_what_is_kept_are_all_updates(wire: WireConfig, seeds: list[int]) -> None:
    sent, residual = {name: torch.zeros(shape) for name, shape in SHAPES.items()}, {}
    wanted = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for seed in seeds:
        update = whole_numbers(seed)
        record, residual = coded_update(update, wire, residual)
        got = received(record, wire)
        sent = {name: sent[name] + got[name] for name in SHAPES}
        wanted = {name: wanted[name] + update[name] for name in SHAPES}
    found = {name: sent[name] + residual.get(name, 0.0) for name in SHAPES}
    if wire.codec == "int8":  # Its steps are no round numbers: the sums are rounded, nothing else.
        assert torch.allclose(flat(found), flat(wanted), rtol=0, atol=1e-4)
    else:
        assert equal(found, wanted)


@given(seed=st.integers(0, 2**32), scale=st.floats(1e-30, 1e30), share=st.floats(0.01, 1.0))
@settings(max_examples=60)
def test_of_int8_each_single_update_is_kept_exactly(seed: int, scale: float, share: float) -> None:
    wire, update = WireConfig("int8", share), drawn(seed, scale)
    record, residual = coded_update(update, wire, {})
    got, kept = flat(received(record, wire)).double(), flat(residual).double()
    assert torch.equal(got + kept, flat(update).double())


@pytest.mark.parametrize("codec", BYTES_EACH)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.8])
def test_top_k_sends_the_largest_entries_and_no_others(codec: Any, share: float) -> None:
    wire, update, count = WireConfig(codec, share), drawn(3), math.ceil(share * SIZE)
    record, _ = coded_update(update, wire, {})
    got, wanted = flat(received(record, wire)), flat(update)
    places = np.flatnonzero(got)
    least_sent = wanted[torch.from_numpy(places)].abs().min()
    assert len(places) == count
    assert sorted(wanted.abs().tolist())[-count] == pytest.approx(float(least_sent))
    error = (got - wanted)[torch.from_numpy(places)].abs().max()
    assert error <= float(wanted.abs().max()) * {"fp32": 0, "fp16": 5e-4}.get(codec, 4e-3)
    values = count * BYTES_EACH[codec] + (4 if codec == "int8" else 0)
    data = data_of(record)
    assert positions_from_bytes(data[values:], count, SIZE).tolist() == places.tolist()
    assert len(data) - values == len(positions_to_bytes(places, SIZE)) <= SIZE / 8


@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_the_server_adds_what_it_gets_to_what_the_strategy_sent(wire: WireConfig) -> None:
    """As it was before it was rounded for the nodes."""
    base, update = drawn(0), drawn(1)
    record, _ = coded_update(update, wire, {})
    summed = tensors_of(with_update(ArrayRecord(base), record, wire, SHAPES))
    moves = received(record, wire)
    assert shapes_of(summed) == SHAPES
    assert equal(summed, {name: base[name] + moves[name] for name in SHAPES})


@pytest.mark.parametrize("codec", ["fp32", "bf16", "fp16"])
def test_all_entries_are_the_dense_update(codec: Any) -> None:
    """Whether they travel by tensors or by positions; int8 has other scales then."""
    update = drawn(4)
    sparse, left = coded_update(update, WireConfig(codec, 0.999), {})
    dense, dense_left = coded_update(update, WireConfig(codec), {})
    assert equal(received(sparse, WireConfig(codec, 0.999)), received(dense, WireConfig(codec)))
    assert len(data_of(sparse)) == len(data_of(dense)) + SIZE / 8
    assert equal({name: left[name] for name in dense_left}, dense_left)


@pytest.mark.parametrize("codec", LOSSY)
def test_a_node_is_sent_what_the_codec_makes_of_the_tunables(codec: Any) -> None:
    wire, tensors = WireConfig(codec), drawn(5)
    settings_, other = ConfigRecord({"server-round": 3}), ArrayRecord({"x": torch.ones(3)})
    content = RecordDict({"a": ArrayRecord(tensors), "config": settings_, "other": other})
    coded = coded_content(content, wire, SHAPES)
    assert list(coded) == ["a:coded", "config", "other"]
    assert coded["config"] is settings_
    assert coded["other"] is other
    assert len(data_of(coded.array_records["a:coded"])) == CODED_BYTES[codec]
    decoded = decoded_content(coded, wire, SHAPES)
    assert list(decoded) == list(content)
    wanted = decode(encode(tensors, codec)[0], codec, SHAPES)
    assert equal(tensors_of(decoded.array_records["a"]), wanted)
    assert not equal(wanted, tensors)


def test_what_is_exact_travels_as_it_is() -> None:
    content = RecordDict({"a": ArrayRecord(drawn(6))})
    assert coded_content(content, WireConfig(top_k=0.1), SHAPES) is content
    integers = RecordDict({"a": ArrayRecord({n: torch.ones(s).int() for n, s in SHAPES.items()})})
    assert list(coded_content(integers, WireConfig("int8"), SHAPES)) == ["a"]


def test_a_node_takes_no_tunables_that_are_not_finite() -> None:
    for wire, data in (
        (WireConfig("fp16"), np.full(SIZE, np.inf, "<f2").tobytes()),
        (WireConfig("int8"), b"\xff" * CODED_BYTES["int8"]),
    ):
        with pytest.raises(PacketError, match="not finite"):
            decoded_content(RecordDict({"a:coded": record_of(data)}), wire, SHAPES)


def test_values_that_do_not_fit_are_not_sent() -> None:
    for bad in (math.nan, math.inf, 1e6):
        update = {**drawn(7), "s": torch.tensor(bad)}
        with pytest.raises(PacketError, match="not finite"):
            coded_content(RecordDict({"a": ArrayRecord(update)}), WireConfig("fp16"), SHAPES)
        for wire in (WireConfig("fp16"), WireConfig("fp16", 0.3)):
            with pytest.raises(PacketError, match="not finite"):
                coded_update(update, wire, {})
    with pytest.raises(PacketError, match="update: has values that are not finite"):
        coded_update({**drawn(7), "w": torch.full((4, 3), math.nan)}, WireConfig(top_k=0.1), {})


def hostile(wire: WireConfig) -> dict[str, ArrayRecord]:
    """Return records that a node might send instead of an update."""
    data = data_of(coded_update(drawn(8), wire, {})[0])
    array = record_of(data)[DATA]
    nan = np.full(SIZE, np.nan, {"fp32": "<f4", "fp16": "<f2"}.get(wire.codec, "<f4")).tobytes()
    huge = np.lib.format.magic(1, 0) + b"\x76\x00" + b"{'descr': '|u1', 'shape': (%d,)}" % 10**15
    zipped = b"PK\x03\x04" + bytes(100)
    return {
        "nothing": ArrayRecord({}),
        "plain": ArrayRecord(drawn(8)),
        "one array more": ArrayRecord({DATA: array, "more": array}),
        "cut short": record_of(data[:-1]),
        "one byte more": record_of(data + b"\0"),
        "empty": record_of(b""),
        "not finite": record_of(nan[: len(data)] if wire.top_k == 1 else nan[:8] + data[8:]),
        "places beyond": record_of(data[:-1] + b"\xff") if wire.top_k < 1 else record_of(b"\xff"),
        "a shape of two": ArrayRecord({DATA: Array(np.frombuffer(data, np.uint8)[None])}),
        "of int8": ArrayRecord({DATA: Array(np.frombuffer(data, np.int8))}),
        "says it is of int8": ArrayRecord(
            {DATA: Array("uint8", array.shape, array.stype, array.data.replace(b"|u1", b"|i1"))}
        ),
        "says it is smaller": ArrayRecord({DATA: Array("uint8", (1,), array.stype, array.data)}),
        "declares a petabyte": ArrayRecord({DATA: Array("uint8", (10**15,), array.stype, huge)}),
        "zip": ArrayRecord({DATA: Array("uint8", array.shape, array.stype, zipped)}),
        "no bytes": ArrayRecord({DATA: Array("uint8", array.shape, array.stype, b"")}),
    }


@pytest.mark.parametrize(
    "wire", [WireConfig("fp16"), WireConfig("int8", 0.2), WireConfig("fp32", 0.2)]
)
def test_what_is_no_update_of_these_tunables_is_refused(wire: WireConfig) -> None:
    base = ArrayRecord(drawn(9))
    with_update(base, coded_update(drawn(8), wire, {})[0], wire, SHAPES)
    for case, record in hostile(wire).items():
        if case == "not finite" and wire.codec == "int8":
            continue  # It has no such values.
        with pytest.raises(PacketError) as refused:
            with_update(base, record, wire, SHAPES)
        assert "\n" not in str(refused.value), case


@given(data=st.binary(max_size=60), wire=st.sampled_from(WIRES))
@settings(max_examples=300)
def test_any_bytes_are_refused_or_lead_to_finite_tunables(data: bytes, wire: WireConfig) -> None:
    try:
        summed = with_update(ArrayRecord(drawn(9)), record_of(data), wire, SHAPES)
    except PacketError:
        return
    assert torch.isfinite(flat(tensors_of(summed))).all()


@pytest.mark.parametrize(("codec", "most"), [("fp16", 65504.0), ("int8", 3e38), ("fp32", 3e38)])
def test_an_update_after_which_the_average_could_not_be_sent_is_refused(
    codec: Any, most: float
) -> None:
    wire = WireConfig(codec, 0.3)
    update = {**drawn(1), "s": torch.tensor(0.9 * most)}
    record, _ = coded_update(update, wire, {})
    with pytest.raises(PacketError, match=r"not finite|must lie between"):
        with_update(ArrayRecord(drawn(0)), record, wire, SHAPES)
    with pytest.raises(PacketError, match="not the run's tunables"):
        with_update(ArrayRecord({"x": torch.ones(3)}), record, wire, SHAPES)
