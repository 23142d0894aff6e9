"""Damage changes one bit or cuts the end off, of what the receiver is given alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from mfd_flower.network.faults import generator
from mfd_flower.runtime.damage import cut_off, flip_bit

VALUES = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_one_bit_of_the_values_or_a_missing_tail(seed: int) -> None:
    arrays = ArrayRecord([VALUES, np.zeros((0, 2)), VALUES.astype(np.int8)])
    data = bytes(range(256)) * 4
    header = ConfigRecord({"hop": 1, "data": data, "digest": b"short", "lines": ["a"]})
    content = RecordDict({"arrays": arrays, "header": header})

    def carried(content: RecordDict, headers: bool) -> bytes:
        values = content.array_records["arrays"].values()
        rest = content.config_records["header"]["data"]
        assert isinstance(rest, bytes)
        parts = [array.data if headers else array.numpy().tobytes() for array in values]
        return b"".join([*parts, rest])

    flipped, short = (harm(content, generator(seed)) for harm in (flip_bit, cut_off))
    assert flipped is not None
    assert short is not None
    pairs = zip(carried(flipped, headers=False), carried(content, headers=False), strict=True)
    assert sum((a ^ b).bit_count() for a, b in pairs) == 1
    whole, tail = carried(content, headers=True), carried(short, headers=True)
    assert len(tail) < len(whole)
    assert whole.startswith(tail)
    for damaged in (flipped, short):
        left = damaged.config_records["header"]
        assert {**left, "data": data} == header
    assert content.config_records["header"]["data"] == data
    assert np.array_equal(arrays["0"].numpy(), VALUES)


@pytest.mark.parametrize("content", [{}, {"header": ConfigRecord({"hop": 1, "digest": b"short"})}])
def test_without_data_there_is_nothing_to_damage(content: Any) -> None:
    for harm in (flip_bit, cut_off):
        assert harm(RecordDict(content), generator(0)) is None
