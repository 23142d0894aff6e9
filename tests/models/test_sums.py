"""Sums on the wire and on disk: all come back, equal ones have equal bytes, others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mfd_flower.checks import ConfigError
from mfd_flower.models.sums import (
    EXACT,
    FORMAT,
    Sums,
    cross_from_bytes,
    cross_to_bytes,
)
from mfd_flower.packets import PacketError, rice

FEATURES, CLASSES = 5, 3


def drawn(seed: int, count: int, largest: int = 7) -> Sums:
    rng = np.random.default_rng(seed)
    x = rng.integers(-largest, largest + 1, (count, FEATURES))
    return Sums.of(x, rng.integers(0, CLASSES, count), CLASSES)


@given(st.integers(0, 2**31), st.integers(0, 40), st.sampled_from([1, 7, 2**20]))
def test_sums_come_back_from_the_wire(seed: int, count: int, largest: int) -> None:
    sums = drawn(seed, count, largest)
    back = Sums.from_bytes(sums.to_bytes(), FEATURES, CLASSES)
    np.testing.assert_array_equal(back.gram, sums.gram)
    np.testing.assert_array_equal(back.cross, sums.cross)
    cross = cross_from_bytes(cross_to_bytes(sums.cross), FEATURES, CLASSES)
    np.testing.assert_array_equal(cross, sums.cross)


@given(st.integers(0, 2**31), st.data())
def test_what_came_damaged_is_refused_or_is_other_sums(seed: int, data: st.DataObject) -> None:
    sums = drawn(seed, 20)
    text = bytearray(sums.to_bytes())
    bit = data.draw(st.integers(0, 8 * len(text) - 1))
    text[bit // 8] ^= 1 << bit % 8
    try:
        found = Sums.from_bytes(bytes(text), FEATURES, CLASSES)
    except PacketError:
        return
    assert found.to_bytes() == text
    np.testing.assert_array_equal(found.gram, found.gram.T)
    assert found.samples == found.counts.sum()


@pytest.mark.parametrize("cut", [1, 10])
def test_a_bit_plane_cut_short_is_named(cut: int) -> None:
    with pytest.raises(PacketError, match="sums: "):
        Sums.from_bytes(drawn(0, 20).to_bytes()[:-cut], FEATURES, CLASSES)


def wire(cross: object, left: object) -> bytes:
    """Return bytes that no honest node makes."""
    return rice.encode(np.concatenate([np.ravel(np.transpose(cross)), np.ravel(left)]))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("cross", "left", "said"),
    [
        ([[0, 3], [1, 0]], [0], "a class without samples has some"),
        ([[0, 0], [1, -1]], [0], "-1 samples of a class"),
        ([[2**53, 0], [1, 0]], [0], "a sum passes"),
        ([[2**40, 0], [1, 0]], [0], "a sum passes"),
        ([[1, 0], [1, 0]], [2**62], "a sum passes"),
        ([[2**26, 0], [1, 0]], [2**52], "a sum passes"),
    ],
)
def test_sums_that_no_samples_have_are_named(cross: object, left: object, said: str) -> None:
    with pytest.raises(PacketError, match=said):
        Sums.from_bytes(wire(cross, left), 1, 2)


def test_the_wire_takes_less_than_the_numbers_do() -> None:
    """Class sums are taken out of the Gram matrix before it is coded: a saving that is measured."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 3000)
    centres = rng.integers(-5, 6, (CLASSES, 64))
    x = centres[labels] + rng.integers(-2, 3, (3000, 64))
    sums = Sums.of(x, labels, CLASSES)
    triangle = sums.gram[np.triu_indices(65)]
    assert len(sums.to_bytes()) < 0.75 * len(rice.encode(np.r_[triangle, sums.cross.ravel()]))


def test_sums_come_back_from_disk(tmp_path: Path) -> None:
    sums = drawn(1, 20)
    sums.save(tmp_path / "sums.safetensors", {"features": "ab", "nodes": ["n0", "n2"]})
    back, about = Sums.load(tmp_path / "sums.safetensors")
    assert back.to_bytes() == sums.to_bytes()
    assert about == {"features": "ab", "nodes": ["n0", "n2"]}


def damaged(name: str) -> dict[str, np.ndarray]:
    sums = drawn(1, 20)
    gram, cross = sums.gram.copy(), sums.cross.copy()
    if name == "not symmetric":
        gram[0, 1] += 1
    elif name == "count different samples":
        cross[-1, 0] += 1
    elif name == "passes":
        gram[0, 0] = EXACT
    elif name == "int64":
        return {"gram": gram.astype(np.int32), "cross": cross}
    elif name == "does not belong":
        return {"gram": gram[:-1, :-1].copy(), "cross": cross}
    else:
        return {"gram": gram}
    return {"gram": gram, "cross": cross}


@pytest.mark.parametrize(
    "name",
    [
        *("not symmetric", "count different samples", "passes", "int64", "does not belong"),
        "accepted: gram and cross",
    ],
)
def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path, name: str) -> None:
    save_file(damaged(name), tmp_path / "bad", {"format": FORMAT})
    with pytest.raises(ConfigError, match=name):
        Sums.load(tmp_path / "bad")


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no sums")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        Sums.load(tmp_path / "text")
    save_file({"gram": np.zeros(1)}, tmp_path / "other")
    with pytest.raises(ConfigError, match="accepted: gram and cross"):
        Sums.load(tmp_path / "other")
