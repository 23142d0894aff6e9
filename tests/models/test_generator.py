"""A generator learns what its images are like, is small, and gives away what is measured."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image
from torch import Tensor

from mfd_flower.models.generator import Decoder, GeneratorOptions, Pair, _clipped, trained_decoder
from mfd_flower.models.privacy import epsilon_of
from mfd_flower.sharing.drawn import EACH, GAP_PX, drawn_sheet
from mfd_flower.sharing.leakage import leakage_of


def squares(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bright squares: of class 0 above, of class 1 below."""
    rng = torch.Generator().manual_seed(seed)
    images, labels = torch.zeros(count, 1, 28, 28), torch.arange(count) % 2
    left = torch.randint(2, 14, (count,), generator=rng)
    for image, label, start in zip(images, labels.tolist(), left.tolist(), strict=True):
        top = 2 + 14 * label
        image[0, top : top + 10, start : start + 12] = 1
    return images, labels


@pytest.mark.parametrize(("classes", "channels"), [(10, 1), (100, 3)])
def test_a_decoder_is_at_most_a_megabyte(classes: int, channels: int) -> None:
    decoder = Decoder(GeneratorOptions().latent, classes, channels)
    assert sum(p.nbytes for p in decoder.parameters()) <= 1e6
    drawn = decoder.draw(torch.arange(classes), torch.Generator().manual_seed(0))
    assert drawn.shape == (classes, channels, 28, 28)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_it_draws_what_a_class_looks_like() -> None:
    images, labels = squares(40)
    decoder, cost, samples = trained_decoder(
        images, labels, 2, GeneratorOptions(epochs=60, batch_size=8), 3
    )
    assert (samples, cost.flops > 0) == (60 * 40, True)
    drawn = decoder.draw(labels, torch.Generator().manual_seed(1))
    above, below = drawn[:, 0, :14].mean((1, 2)), drawn[:, 0, 14:].mean((1, 2))
    assert ((above > below) == (labels == 0)).float().mean() > 0.9


def test_the_seed_decides_all() -> None:
    images, labels = squares(12)
    options = GeneratorOptions(epochs=3)
    torch.manual_seed(5)
    one = trained_decoder(images, labels, 2, options, 3)[0].state_dict()
    torch.manual_seed(6)
    same = trained_decoder(images, labels, 2, options, 3)[0].state_dict()
    other = trained_decoder(images, labels, 2, options, 4)[0].state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def gradients(clip: float) -> list[Tensor]:
    images, labels = squares(6)
    torch.manual_seed(0)
    pair = Pair(16, 2, 1)
    options = GeneratorOptions(clip=clip)
    noise = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    _clipped(pair, (images, labels, noise), options, torch.Generator())
    found = [p.grad for p in pair.parameters() if p.grad is not None]
    pair.zero_grad()
    pair(images, labels, noise).mean().backward()
    whole = [p.grad for p in pair.parameters() if p.grad is not None]
    return [*found, *whole]


def test_a_wide_clip_changes_nothing() -> None:
    both = gradients(1e9)
    for clipped, whole in zip(both[: len(both) // 2], both[len(both) // 2 :], strict=True):
        torch.testing.assert_close(clipped, whole, atol=1e-5, rtol=1e-4)


def test_no_sample_moves_more_than_the_clip() -> None:
    both = gradients(0.5)
    clipped = both[: len(both) // 2]
    norm = torch.cat([g.flatten() for g in clipped]).norm()
    assert 0 < norm <= 0.5 + 1e-6


def test_a_budget_is_told_where_there_is_noise() -> None:
    """Of full batches, one release an epoch: what the accountant says of as many of them."""
    assert GeneratorOptions(clip=1.0).epsilon is None
    assert GeneratorOptions(noise=1.0).epsilon is None
    few, many = (GeneratorOptions(clip=1.0, noise=5.0, epochs=n).epsilon for n in (4, 16))
    assert few == pytest.approx(epsilon_of(5.0, 1e-5, 2.0))
    assert few is not None
    assert many is not None
    assert few < many < 4 * few


def test_a_sheet_has_a_row_a_node_and_white_for_what_is_missing() -> None:
    images = torch.zeros(4, EACH, 1, 28, 28)
    images[1] = torch.nan
    page = Image.open(io.BytesIO(base64.b64decode(drawn_sheet({"n0": images, "n1": images}))))
    side = 28 + 2 * GAP_PX
    assert page.size == (4 * EACH * side, 2 * side)
    middle = side // 2
    assert [page.getpixel((middle + x * EACH * side, middle)) for x in range(3)] == [0, 255, 0]
    assert page.getpixel((0, 0)) == 255


def test_copies_give_everything_away_and_strangers_nothing() -> None:
    members, _ = squares(30, 1)
    others, _ = squares(30, 2)
    rng = torch.Generator().manual_seed(3)
    members = (members + 0.1 * torch.rand(members.shape, generator=rng)).clamp(0, 1)
    others = (others + 0.1 * torch.rand(others.shape, generator=rng)).clamp(0, 1)
    copied = leakage_of(members, members, others)
    assert copied.distance_ratio == pytest.approx(0, abs=1e-2)
    assert copied.membership_auc == 1.0
    strangers = torch.rand(200, 1, 28, 28, generator=rng)
    nothing = leakage_of(strangers, members, others)
    assert nothing.distance_ratio == pytest.approx(1, abs=0.05)
    assert nothing.membership_auc == pytest.approx(0.5, abs=0.2)
