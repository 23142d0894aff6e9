"""A tensor on a link comes back as it was, or as near as its codec says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.packets.codecs import CODECS
from mfd_flower.split.frames import HEAD, LinkError, pack_tensor, read_head, read_tensor

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
exact = st.sampled_from([torch.float32, torch.float64, torch.int64])


def over_the_wire(tensor: Tensor, codec: str) -> Tensor:
    head, data = pack_tensor(tensor, codec)
    return read_tensor(read_head(head), data)


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return 50 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(shape=shapes, dtype=exact, seed=st.integers(0, 99))
def test_fp32_is_exact_whatever_the_tensor(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    tensor = random(shape, seed).to(dtype)
    received = over_the_wire(tensor.mT if len(shape) > 1 else tensor, "fp32")
    assert received.dtype == dtype
    assert torch.equal(received, tensor.mT if len(shape) > 1 else tensor)


@settings(deadline=None)
@given(shape=st.lists(st.integers(1, 5), max_size=4).map(tuple), seed=st.integers(0, 99))
def test_int8_is_off_by_half_a_step_of_its_token(shape: tuple[int, ...], seed: int) -> None:
    tensor = random(shape, seed)
    largest = tensor.abs().amax(-1, keepdim=True) if shape else tensor.abs()
    assert (over_the_wire(tensor, "int8") - tensor).abs().le(0.501 * largest / 127).all()


@pytest.mark.parametrize(("codec", "precision"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_halves_round_to_their_precision(codec: str, precision: float) -> None:
    tensor = random((3, 4, 5))
    received = over_the_wire(tensor, codec)
    assert received.dtype == torch.float32
    assert 0 < ((received - tensor) / tensor).abs().max() <= precision


def test_codecs_leave_labels_and_float64_alone() -> None:
    for tensor in (torch.tensor([3, 2**40]), torch.tensor([0.1], dtype=torch.float64)):
        assert torch.equal(over_the_wire(tensor, "int8"), tensor)


def test_bytes_are_the_codecs() -> None:
    tensor = torch.ones(2, 17, 96)
    sizes = {codec: len(pack_tensor(tensor, codec)[1]) for codec in ("fp32", "fp16", "int8")}
    values = 2 * 17 * 96
    assert sizes == {"fp32": 4 * values, "fp16": 2 * values, "int8": values + 4 * 2 * 17}


def test_what_arrives_is_a_leaf_with_memory_of_its_own() -> None:
    tensor = torch.ones(2, 3, requires_grad=True)
    head, data = pack_tensor(tensor * 2, "fp32")
    with torch.no_grad():
        tensor.zero_()
    received = read_tensor(read_head(head), data)
    assert received.is_leaf
    assert received.requires_grad
    assert torch.equal(received.detach(), torch.full((2, 3), 2.0))
    assert not over_the_wire(tensor.detach(), "fp32").requires_grad


def test_formats_keep_their_numbers_on_the_wire() -> None:
    """What older nodes and newer ones say to each other; a new codec goes to the end."""
    rows = torch.arange(6.0).reshape(2, 3)
    sent = {codec: pack_tensor(rows, codec)[0][1] for codec in ("fp32", "bf16", "fp16", "int8")}
    assert sent == {"fp32": 0, "bf16": 3, "fp16": 4, "int8": 5}
    assert [pack_tensor(rows.to(d), "int8")[0][1] for d in (torch.float64, torch.int64)] == [1, 2]
    scales, steps = pack_tensor(rows, "int8")[1].split([8, 6])
    assert (scales.view(torch.float32) * 127).tolist() == pytest.approx([2.0, 5.0])
    assert steps.view(torch.int8).tolist() == [0, 64, 127, 76, 102, 127]


@pytest.mark.parametrize("codec", list(CODECS))
def test_every_codec_of_the_table_goes_over_a_link(codec: str) -> None:
    tensor = random((2, 3, 8)).requires_grad_(True)
    head, data = pack_tensor(tensor, codec)
    frame = read_head(head)
    assert frame.size_bytes == len(data)
    received = read_tensor(frame, data)
    assert received.requires_grad
    torch.testing.assert_close(received, tensor, rtol=0, atol=1.0)


heads = st.tuples(
    *(st.integers(0, top) for top in (2, 7, 2, 5)),
    st.one_of(st.integers(0, 64), st.just(2**63)),
    *(st.integers(0, 3) for _ in range(4)),
)


@settings(deadline=None)
@given(head=heads)
def test_a_head_names_a_tensor_of_its_size_or_is_refused(head: tuple[int, ...]) -> None:
    try:
        frame = read_head(HEAD.pack(*head))
    except LinkError:
        return
    if frame.format is not None:
        tensor = read_tensor(frame, torch.zeros(frame.size_bytes, dtype=torch.uint8))
        assert tensor.shape == torch.Size(head[5 : 5 + head[3]])
        assert tensor.requires_grad == bool(head[2])


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(LinkError, match="complex64 with 1 axes: accepted: float32"):
        pack_tensor(torch.ones(2, dtype=torch.complex64), "fp32")
    with pytest.raises(LinkError, match="5 axes"):
        pack_tensor(torch.ones(1, 1, 1, 1, 1), "fp32")
    with pytest.raises(LinkError, match="do not fit fp16"):
        pack_tensor(torch.tensor([1e6]), "fp16")
