"""Codecs lose no more than their number format must, and error feedback loses nothing for good."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.packets import CODECS, PacketError, decode, encode

LOSSY = ("bf16", "fp16", "int8")
SHAPES = [(), (1,), (7,), (1, 1), (5, 3), (1, 4, 6), (3, 2, 2, 2), (70, 100)]


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def through(tensors: dict[str, Tensor], codec: str) -> dict[str, Tensor]:
    return decode(encode(tensors, codec)[0], codec, shapes_of(tensors))


def random_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"t{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(SHAPES)}


def as_rows(tensor: Tensor) -> Tensor:
    """Rows of the first axis; a vector is one row. Shape ``(rows, values)``, float64."""
    rows = tensor.shape[0] if tensor.ndim > 1 else 1
    return tensor.double().reshape(rows, -1)


@given(exponents=st.lists(st.integers(-45, 37), min_size=1, max_size=6), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_int8_errs_by_half_a_step_of_its_row_at_most(exponents: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(len(exponents), 33, generator=generator, dtype=torch.float64) * 2 - 1
    matrix = (values * 10.0 ** torch.tensor(exponents, dtype=torch.float64)[:, None]).float()
    error = (as_rows(through({"w": matrix}, "int8")["w"]) - as_rows(matrix)).abs().amax(1)
    step = as_rows(matrix).abs().amax(1) / 127
    smallest = torch.finfo(torch.float32).tiny
    assert (error <= 0.5 * step.clamp_min(smallest) * (1 + 1e-5)).all()


def test_int8_has_one_step_a_row_and_one_for_a_vector() -> None:
    tensors = random_tensors()
    encoded, _ = encode(tensors, "int8")
    scales = {n.removesuffix(":scale"): len(t) for n, t in encoded.items() if n.endswith(":scale")}
    assert scales == {f"t{i}": s[0] if len(s) > 1 else 1 for i, s in enumerate(SHAPES)}
    for name, tensor in tensors.items():
        error = (as_rows(through(tensors, "int8")[name]) - as_rows(tensor)).abs().amax(1)
        assert (error <= 0.5 * as_rows(tensor).abs().amax(1) / 127 * (1 + 1e-5)).all()


def test_int8_keeps_zero_rows_and_extremes() -> None:
    matrix = torch.tensor([[0.0, 0.0], [127.0, -127.0], [1e-45, 0.0], [3e38, -3e38]])
    back = through({"w": matrix}, "int8")["w"]
    assert torch.equal(back[:2], matrix[:2])
    assert torch.isfinite(back).all()
    assert torch.allclose(back[3], matrix[3], rtol=1e-6)


@pytest.mark.parametrize(("codec", "bits", "largest"), [("bf16", 8, 3e38), ("fp16", 11, 65504.0)])
def test_half_precision_errs_by_its_unit_roundoff_at_most(
    codec: str, bits: int, largest: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(20_000, generator=generator) * (math.log10(largest) + 4) - 4
    values = torch.cat([10.0**exponents, -(10.0**exponents), torch.tensor([largest, 0.0])])
    values = values.clamp(-largest, largest)
    error = (through({"w": values}, codec)["w"].double() - values.double()).abs()
    assert (error <= 2.0**-bits * values.double().abs()).all()
    # With one bit less of tolerance the bound breaks: the test is sharp.
    assert (error > 2.0 ** -(bits + 1) * values.double().abs()).any()


@pytest.mark.parametrize("codec", LOSSY)
def test_what_is_dropped_is_left_over(codec: str) -> None:
    tensors = random_tensors()
    encoded, residual = encode(tensors, codec)
    decoded = decode(encoded, codec, shapes_of(tensors))
    for name, tensor in tensors.items():
        assert torch.equal(residual[name], tensor - decoded[name])
    assert any(residual[name].abs().max() > 0 for name in tensors)


@pytest.mark.parametrize("codec", LOSSY)
def test_error_feedback_makes_the_mean_converge(codec: str) -> None:
    """What is left over stays within half a step, so the mean of T sendings errs by that / T."""
    tensors = random_tensors()
    sendings = 64
    once = through(tensors, codec)
    total = {
        name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in tensors.items()
    }
    residual: dict[str, Tensor] = {}
    for _ in range(sendings):
        encoded, residual = encode(tensors, codec, residual)
        for name, tensor in decode(encoded, codec, shapes_of(tensors)).items():
            total[name] += tensor
    plain = sum(float((once[name] - t).abs().sum()) for name, t in tensors.items())
    fed = sum(float((total[name] / sendings - t).abs().sum()) for name, t in tensors.items())
    assert 0 < fed < plain * 3 / sendings


@pytest.mark.parametrize("codec", LOSSY)
def test_rows_are_encoded_independently(codec: str) -> None:
    """Also across the blocks in which large tensors are worked on."""
    tall = torch.randn(150, 1000, generator=torch.Generator().manual_seed(0))
    together, left = encode({"w": tall}, codec)
    apart = [encode({"w": row}, codec) for row in tall.split(1)]
    for name in together:
        assert torch.equal(together[name], torch.cat([coded[name] for coded, _ in apart]))
    assert torch.equal(left["w"], torch.cat([rest["w"] for _, rest in apart]))


def test_fp32_is_exact_and_encoding_copies() -> None:
    tensors = random_tensors()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    encoded, residual = encode(tensors, "fp32")
    assert residual == {}
    for tensor in tensors.values():
        tensor.zero_()
    decoded = decode(encoded, "fp32", shapes_of(tensors))
    assert all(torch.equal(decoded[name], kept[name]) for name in kept)


def test_fp32_settles_what_a_lossy_codec_left_over() -> None:
    tensors = random_tensors()
    _, residual = encode(tensors, "int8")
    encoded, rest = encode(tensors, "fp32", residual)
    assert rest == {}
    assert all(torch.equal(encoded[name], tensors[name] + residual[name]) for name in tensors)


@pytest.mark.parametrize("codec", CODECS)
def test_encoding_leaves_its_input_as_it_was(codec: str) -> None:
    tensors, residual = random_tensors(), random_tensors(1)
    encode(tensors, codec, residual)
    for held, seed in ((tensors, 0), (residual, 1)):
        assert all(torch.equal(held[n], t) for n, t in random_tensors(seed).items())


def test_a_tensor_that_is_not_sent_keeps_what_was_left_over() -> None:
    tensors = random_tensors()
    _, residual = encode(tensors, "int8")
    part = {"t4": tensors["t4"]}
    _, later = encode(part, "int8", residual)
    assert later.keys() == residual.keys()
    assert torch.equal(later["t7"], residual["t7"])
    assert not torch.equal(later["t4"], residual["t4"])


@pytest.mark.parametrize(
    ("codec", "per_value", "per_row"),
    [("fp32", 4, 0), ("bf16", 2, 0), ("fp16", 2, 0), ("int8", 1, 4)],
)
def test_encoded_bytes_equal_the_closed_form(codec: str, per_value: int, per_row: int) -> None:
    encoded, _ = encode(random_tensors(), codec)
    values = sum(math.prod(shape) for shape in SHAPES)
    rows = sum(shape[0] if len(shape) > 1 else 1 for shape in SHAPES)
    assert sum(t.nbytes for t in encoded.values()) == per_value * values + per_row * rows


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(70_000,), (3, 5)])
def test_values_that_are_not_finite_are_refused(
    codec: str, value: float, shape: tuple[int, ...]
) -> None:
    tensor = torch.zeros(shape)
    tensor.view(-1)[-1] = value
    with pytest.raises(PacketError, match="head"):
        encode({"head": tensor}, codec)


@pytest.mark.parametrize(
    ("codec", "fits", "does_not"),
    [("fp16", 65519.996, 65520.0), ("bf16", 3.38e38, 3.4e38), ("int8", 3.37e38, 3.39e38)],
)
def test_values_beyond_the_codec_are_refused(codec: str, fits: float, does_not: float) -> None:
    assert torch.isfinite(through({"w": torch.tensor([[-fits]])}, codec)["w"]).all()
    with pytest.raises(PacketError, match=f"w.*{codec}"):
        encode({"w": torch.tensor([[-does_not]])}, codec)


def test_feedback_that_leaves_the_range_is_refused() -> None:
    with pytest.raises(PacketError, match="fp16"):
        encode({"w": torch.tensor([65000.0])}, "fp16", {"w": torch.tensor([1000.0])})


def test_input_that_is_no_tunable_is_refused() -> None:
    with pytest.raises(PacketError, match="must be float32"):
        encode({"w": torch.ones(2, dtype=torch.float64)}, "fp32")
    with pytest.raises(PacketError, match="with some"):
        encode({"w": torch.ones(0, 3)}, "int8")
    with pytest.raises(PacketError, match="residual w"):
        encode({"w": torch.ones(2)}, "int8", {"w": torch.ones(1)})
    with pytest.raises(PacketError, match="accepted: fp32, bf16, fp16, int8"):
        encode({"w": torch.ones(2)}, "int4")


def test_decoding_takes_only_what_codec_and_shapes_imply() -> None:
    shapes = {"w": (2, 3), "b": (3,)}
    good, _ = encode({"w": torch.ones(2, 3)}, "int8")
    assert decode(good, "int8", shapes).keys() == {"w"}
    lies: list[dict[str, Tensor]] = [
        {"w": good["w"]},
        {"w:scale": good["w:scale"]},
        good | {"x": torch.ones(2)},
        good | {"w": good["w"].float()},
        good | {"w": good["w"].reshape(3, 2)},
        good | {"w:scale": good["w:scale"].double()},
        good | {"w:scale": torch.ones(3)},
    ]
    for lie in lies:
        with pytest.raises(PacketError, match="payload"):
            decode(lie, "int8", shapes)
    with pytest.raises(PacketError, match="w:scale"):
        decode({"w": torch.ones(2, 3), "w:scale": torch.ones(2)}, "fp32", shapes)
