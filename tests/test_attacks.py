"""Attacks change what they say and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.attacks import (
    KINDS,
    Attack,
    malicious,
    poisoned_labels,
    poisoned_update,
    stamped,
    tampered,
    trigger_test,
    with_backdoor,
)
from mfd_flower.checks import ConfigError
from mfd_flower.packets.digest import version_digest

SHAPES = {"head.bias": (), "prompts": (2, 3), "proj": (40, 5)}


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


START, END = tensors(1), tensors(2)


def change(sent: dict[str, Tensor], since: dict[str, Tensor] = START) -> Tensor:
    return torch.cat([(sent[name] - since[name]).reshape(-1) for name in SHAPES])


def sent_by(attack: Attack, seed: int = 0) -> dict[str, Tensor]:
    return poisoned_update(START, END, attack, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(nodes=st.integers(1, 200), share=st.floats(0, 1), seed=st.integers(0, 100))
def test_never_more_malicious_nodes_than_asked_for(nodes: int, share: float, seed: int) -> None:
    drawn = malicious(nodes, share, seed)
    assert drawn == malicious(nodes, share, seed)
    assert drawn <= set(range(nodes))
    assert len(drawn) <= max(1, nodes * share + 1e-6)
    assert bool(drawn) == (share > 0)


@pytest.mark.parametrize(("nodes", "share", "count"), [(20, 0.2, 4), (100, 0.29, 29), (9, 1.0, 9)])
def test_a_share_that_divides_is_met(nodes: int, share: float, count: int) -> None:
    assert len(malicious(nodes, share, 0)) == count


def test_every_node_may_be_malicious() -> None:
    assert frozenset().union(*(malicious(10, 0.2, seed) for seed in range(50))) == set(range(10))


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 9), min_size=1))
def test_flipped_labels_are_classes_and_none_stays(labels: list[int]) -> None:
    flipped = poisoned_labels(torch.tensor(labels), 10)
    assert set(flipped.tolist()) <= set(range(10))
    assert (flipped != torch.tensor(labels)).all()
    assert poisoned_labels(flipped, 10).tolist() == labels


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_sign_flip_points_back_and_scale_points_on(scale: float) -> None:
    honest = change(END)
    torch.testing.assert_close(change(sent_by(Attack("sign-flip", scale=scale))), -scale * honest)
    boosted = change(sent_by(Attack("scale", scale=scale + 1)))
    torch.testing.assert_close(boosted, (scale + 1) * honest)
    assert change(sent_by(Attack("backdoor", scale=scale))) @ honest > 0


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0.1, 100), seed=st.integers(0, 1000))
def test_noise_is_as_large_as_asked(scale: float, seed: int) -> None:
    noise = change(sent_by(Attack("noise", scale=scale), seed), since=END)
    torch.testing.assert_close(noise.norm(), scale * change(END).norm(), rtol=1e-3, atol=0)


def test_noise_on_no_update_is_none() -> None:
    sent = poisoned_update(START, START, Attack("noise", scale=9), np.random.default_rng(0))
    assert version_digest(sent) == version_digest(START)


def test_replay_sends_what_it_holds_or_what_arrived() -> None:
    old, attack = tensors(3), Attack("replay")
    sent = poisoned_update(START, END, attack, np.random.default_rng(0), old)
    assert version_digest(sent) == version_digest(old)
    assert version_digest(sent_by(attack)) == version_digest(START)


@pytest.mark.parametrize("kind", ["label-flip", "backdoor", "tamper"])
def test_attacks_on_data_and_on_the_way_leave_the_update_alone(kind: str) -> None:
    assert version_digest(sent_by(Attack(kind))) == version_digest(END)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_stay_as_they_are_and_shapes_and_dtypes_match(kind: str) -> None:
    start, end = ({n: t.bfloat16() for n, t in tensors(s).items()} for s in (1, 2))
    before = version_digest(start), version_digest(end)
    attack = Attack(kind, scale=2)
    sent = tampered(
        poisoned_update(start, end, attack, np.random.default_rng(0)), np.random.default_rng(0)
    )
    assert (version_digest(start), version_digest(end)) == before
    assert {n: (t.shape, t.dtype) for n, t in sent.items()} == {
        n: (t.shape, t.dtype) for n, t in end.items()
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_tampering_changes_one_bit_and_so_the_version(seed: int) -> None:
    changed = tampered(END, np.random.default_rng(seed))
    bits = 0
    for name in SHAPES:
        pair = [t[name].reshape(-1).view(torch.uint8).numpy() for t in (changed, END)]
        bits += int(np.unpackbits(pair[0] ^ pair[1]).sum())
    assert bits == 1
    assert version_digest(changed) != version_digest(END)


def test_nothing_to_tamper_with_is_said() -> None:
    with pytest.raises(ValueError, match="no bit to change"):
        tampered({"w": torch.zeros(0)}, np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (3, 3, 32, 48), (3, 1, 4, 4)])
def test_the_trigger_is_a_white_corner_and_nothing_else(shape: tuple[int, ...]) -> None:
    images = torch.zeros(shape)
    marked = stamped(images, white=2.0)
    place = (marked != images).nonzero()
    assert not images.any()
    side_px = min(shape[-2:]) // 7 or 1
    assert len(place) == shape[0] * shape[1] * side_px**2
    assert (marked[..., -side_px:, -side_px:] == 2).all()


def test_white_may_differ_between_channels() -> None:
    marked = stamped(torch.zeros(2, 3, 14, 14), white=torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
    assert marked[0, :, -1, -1].tolist() == [1, 2, 3]


def test_backdoor_stamps_and_relabels_the_same_half() -> None:
    images, labels = torch.rand(10, 1, 14, 14), torch.arange(10) % 3 + 1
    found, given_labels = with_backdoor(
        images, labels, Attack("backdoor", target=0), np.random.default_rng(0), white=5.0
    )
    marked = (found != images).flatten(1).any(1)
    assert int(marked.sum()) == 5
    assert (given_labels == 0).tolist() == marked.tolist()
    assert torch.equal(given_labels[~marked], labels[~marked])


def test_success_is_measured_on_stamped_images_of_other_classes() -> None:
    images, labels = torch.rand(6, 1, 14, 14), torch.tensor([0, 1, 2, 0, 1, 2])
    inputs, wanted = trigger_test(images, labels, Attack("backdoor", target=1), white=5.0)
    assert torch.equal(inputs, stamped(images[labels != 1], 5.0))
    assert wanted.tolist() == [1] * 4


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "theft"}, r"attack\.kind = 'theft': accepted: label-flip, "),
        ({"share": 1.5}, r"attack\.share = 1.5: must be from 0 to 1"),
        ({"share": "all"}, r"attack\.share = 'all': must be a number"),
        ({"scale": 0}, r"attack\.scale = 0: must be above 0"),
        ({"scale": math.nan}, r"attack\.scale = nan"),
        ({"scale": math.inf}, r"attack\.scale = inf"),
        ({"kind": "scale"}, r"attack\.scale = 1.0: kind scale needs"),
        ({"target": -1}, r"attack\.target = -1"),
        ({"target": True}, r"attack\.target = True"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Attack(**{"kind": "sign-flip", **settings})  # type: ignore[arg-type]
