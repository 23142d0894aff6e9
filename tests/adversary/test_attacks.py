"""Attacks change what they say and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mfd_flower.adversary.attacks import (
    ATTACKS,
    Scene,
    Update,
    backdoored,
    flipped,
    stamped,
    tampered,
    triggered,
)
from mfd_flower.data import Samples
from mfd_flower.packets.digest import version_digest

SHAPES = {"head.bias": (), "prompts": (2, 3), "proj": (40, 5)}


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


START, END, OLD = tensors(1), tensors(2), tensors(3)


def change(sent: dict[str, Tensor], since: dict[str, Tensor] = START) -> Tensor:
    return torch.cat([(sent[name] - since[name]).reshape(-1) for name in SHAPES])


def sent_by(
    kind: str, scale: float = 1.0, seed: int = 0, end: dict[str, Tensor] = END
) -> dict[str, Tensor]:
    on_update = ATTACKS[kind].on_update
    assert on_update is not None
    return on_update(Update(START, end, OLD, scale, np.random.default_rng(seed)))


def scene(target: int = 0, classes: int = 10, white: float = 5.0) -> Scene:
    return Scene(target, classes, torch.full((1, 1, 1, 1), white), np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 9), min_size=1))
def test_flipped_labels_are_classes_and_none_stays(labels: list[int]) -> None:
    samples = Samples(torch.rand(len(labels), 1, 2, 2), torch.tensor(labels))
    found = flipped(samples, scene())
    assert set(found.labels.tolist()) <= set(range(10))
    assert (found.labels != samples.labels).all()
    assert flipped(found, scene()).labels.tolist() == labels
    assert torch.equal(found.inputs, samples.inputs)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_sign_flip_points_back_and_scale_points_on(scale: float) -> None:
    honest = change(END)
    torch.testing.assert_close(change(sent_by("sign-flip", scale)), -scale * honest)
    torch.testing.assert_close(change(sent_by("scale", scale + 1)), (scale + 1) * honest)
    assert change(sent_by("backdoor", scale)) @ honest > 0


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0.1, 100), seed=st.integers(0, 1000))
def test_noise_is_as_large_as_asked(scale: float, seed: int) -> None:
    noise = change(sent_by("noise", scale, seed), since=END)
    torch.testing.assert_close(noise.norm(), scale * change(END).norm(), rtol=1e-3, atol=0)


def test_noise_on_no_update_is_none() -> None:
    assert version_digest(sent_by("noise", scale=9, end=START)) == version_digest(START)


def test_replay_sends_what_it_holds_of_old() -> None:
    assert version_digest(sent_by("replay")) == version_digest(OLD)


@pytest.mark.parametrize("kind", ["label-flip", "backdoor"])
def test_attacks_on_data_leave_the_update_alone(kind: str) -> None:
    assert version_digest(sent_by(kind)) == version_digest(END)


@pytest.mark.parametrize("kind", [kind for kind, attack in ATTACKS.items() if attack.on_update])
def test_inputs_stay_as_they_are_and_shapes_and_dtypes_match(kind: str) -> None:
    start, end, old = ({n: t.bfloat16() for n, t in tensors(s).items()} for s in (1, 2, 3))
    before = [version_digest(each) for each in (start, end, old)]
    on_update = ATTACKS[kind].on_update
    assert on_update is not None
    rng = np.random.default_rng(0)
    sent = tampered(on_update(Update(start, end, old, 2, rng)), rng)
    assert [version_digest(each) for each in (start, end, old)] == before
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


def test_what_is_empty_cannot_be_tampered_with() -> None:
    empty = {"w": torch.zeros(0)}
    assert tampered(empty, np.random.default_rng(0)) == empty


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (3, 3, 32, 48), (3, 1, 4, 4)])
def test_the_trigger_is_a_white_corner_and_nothing_else(shape: tuple[int, ...]) -> None:
    images = torch.zeros(shape)
    marked = stamped(images, torch.tensor(2.0))
    place = (marked != images).nonzero()
    assert not images.any()
    side_px = min(shape[-2:]) // 7 or 1
    assert len(place) == shape[0] * shape[1] * side_px**2
    assert (marked[..., -side_px:, -side_px:] == 2).all()


def test_white_may_differ_between_channels() -> None:
    marked = stamped(torch.zeros(2, 3, 14, 14), torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
    assert marked[0, :, -1, -1].tolist() == [1, 2, 3]


def test_backdoor_stamps_and_relabels_the_same_half() -> None:
    images = Samples(torch.rand(10, 1, 14, 14), torch.arange(10) % 3 + 1)
    found = backdoored(images, scene(target=0))
    marked = (found.inputs != images.inputs).flatten(1).any(1)
    assert int(marked.sum()) == 5
    assert (found.labels == 0).tolist() == marked.tolist()
    assert torch.equal(found.labels[~marked], images.labels[~marked])


def test_success_is_measured_on_stamped_images_of_other_classes() -> None:
    images = Samples(torch.rand(6, 1, 14, 14), torch.tensor([0, 1, 2, 0, 1, 2]))
    found = triggered(images, scene(target=1))
    others = images.inputs[images.labels != 1]
    assert torch.equal(found.inputs, stamped(others, torch.tensor(5.0)))
    assert found.labels.tolist() == [1] * 4
