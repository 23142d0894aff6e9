"""The version changes with any bit, name, dtype or shape, and with nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.packets import example_packet, leaf_digests, merkle_root, version_digest


def random_tensors(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"t{i}": torch.randn(2, 3, generator=generator) for i in range(count)}


def test_order_of_insertion_and_memory_layout_do_not_matter() -> None:
    tensors = random_tensors(5)
    turned = {name: tensors[name].t().contiguous().t() for name in reversed(tensors)}
    assert not turned["t0"].is_contiguous()
    assert version_digest(turned) == version_digest(tensors)


@given(count=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_changes_the_version(count: int, seed: int, data: st.DataObject) -> None:
    tensors = random_tensors(count, seed)
    before = version_digest(tensors)
    name = data.draw(st.sampled_from(sorted(tensors)))
    bit = data.draw(st.integers(0, 2 * 3 * 32 - 1))
    tensors[name].view(-1).view(torch.uint8)[bit // 8] ^= 1 << bit % 8
    assert version_digest(tensors) != before


def test_names_dtypes_and_shapes_are_covered() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    variants = [
        {"a": one, "b": two},
        {"a": two, "b": one},
        {"a": one, "c": two},
        {"a": one},
        {"a": one, "b": two, "c": two},
        {"a": one.reshape(1, 2), "b": two},
        {"a": one.reshape(2, 1), "b": two},
        {"a": one.view(torch.int32), "b": two},
        {"a": one.view(torch.bfloat16).reshape(4), "b": two},
        {"a": one.view(torch.float16).reshape(4), "b": two},
        {"a": torch.cat([one, two])},
        {},
    ]
    assert len({version_digest(tensors) for tensors in variants}) == len(variants)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_a_partial_update_needs_only_the_new_leaves(count: int) -> None:
    tensors = random_tensors(count)
    leaves = leaf_digests(tensors)
    tensors["t0"] = tensors["t0"] + 1
    assert merkle_root(leaves) != version_digest(tensors)
    assert merkle_root(leaves | leaf_digests({"t0": tensors["t0"]})) == version_digest(tensors)


def test_a_leaf_counts_only_in_its_own_place() -> None:
    leaf = leaf_digests({"a": torch.ones(2)})["a"]
    other = leaf_digests({"b": torch.ones(2)})["b"]
    assert leaf != other
    roots = [
        merkle_root({"a": leaf, "b": other}),
        merkle_root({"a": other, "b": leaf}),
        merkle_root({"a": leaf, "c": other}),
    ]
    assert len(set(roots)) == 3


def test_the_last_of_three_is_not_doubled() -> None:
    """CVE-2012-2459: a tree that doubles an odd node has the root of a longer one."""
    leaf = leaf_digests(random_tensors(1))["t0"]
    roots = {merkle_root({f"t{i}": leaf for i in range(count)}) for count in range(9)}
    assert len(roots) == 9


def test_a_root_is_no_leaf_of_another_tree() -> None:
    leaves = leaf_digests(random_tensors(2))
    root = merkle_root(leaves)
    assert merkle_root({"t0": root}) != root


def test_the_version_is_the_same_on_every_machine() -> None:
    """Pinned: nodes of two releases must agree, or every packet between them is refused."""
    assert (
        example_packet().version
        == "45bbca3ab725c14f6880fd496b0ab35329e6ed4890dcabd4f2374a3fe89d6082"
    )
