"""Bytes of split learning against FedAvg: ViT-B/16 by hand, and the stages' own smashed data."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.checks import ConfigError
from mfd_flower.models.backbones import new_fm_tiny
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.stages import split_model
from mfd_flower.split.crossover import crossover_samples, cut_tokens, fedavg_round, hfsl_round

VIT_B16_BYTES = 343_194_624
"""85,798,656 backbone parameters without a head, 4 bytes each."""
SMASHED = 605_184
"""197 tokens of 768 numbers of 4 bytes."""


def test_vit_b16_by_hand() -> None:
    """10 samples, 2 epochs: 20 times over the cut and back; 0.4 MB of tunables down and up."""
    found = hfsl_round([197], 10, 400_000, dim=768, epochs=2)
    assert (found.d2d, found.up, found.down) == (40 * SMASHED, 400_000, 400_000)
    assert found.total == 25_007_360


def test_where_the_lines_cross_for_vit_b16() -> None:
    """One cut: (343,194,624 - 400,000) / 605,184 = 566.43 samples."""
    crossing = crossover_samples([197], 400_000, VIT_B16_BYTES, dim=768)
    assert crossing == pytest.approx(566.43, abs=0.005)
    full = fedavg_round(VIT_B16_BYTES).total
    assert hfsl_round([197], 566, 400_000, dim=768).total < full
    assert hfsl_round([197], 567, 400_000, dim=768).total > full


def test_three_cuts_or_three_epochs_cross_at_a_third() -> None:
    one = crossover_samples([197], 0, VIT_B16_BYTES, dim=768)
    assert crossover_samples([197] * 3, 0, VIT_B16_BYTES, dim=768) == pytest.approx(one / 3)
    assert crossover_samples([197], 0, VIT_B16_BYTES, dim=768, epochs=3) == pytest.approx(one / 3)


def test_eight_bits_a_value_cross_at_nearly_four_times_the_samples() -> None:
    """A token takes 772 bytes instead of 3,072."""
    fp32, int8 = (
        crossover_samples([197], 0, VIT_B16_BYTES, dim=768, bytes_per_value=width)
        for width in (4, 1 + 4 / 768)
    )
    assert int8 / fp32 == pytest.approx(3072 / 772)


def test_never_less_than_fedavg_of_the_same_tunables() -> None:
    assert crossover_samples([197], 400_000, 400_000, dim=768) == 0
    assert hfsl_round([197], 1, 400_000, dim=768).total > fedavg_round(400_000).total


def test_without_a_cut_the_lines_never_cross() -> None:
    assert crossover_samples([], 1, 2, dim=768) == math.inf


@given(
    tokens=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    dim=st.integers(1, 1024),
    module=st.integers(0, 10**6),
    more=st.integers(1, 10**9),
    width=st.sampled_from([1.0, 2.0, 4.0]),
    epochs=st.integers(1, 5),
)
def test_hfsl_sends_less_below_the_crossing_and_more_above(
    tokens: list[int], dim: int, module: int, more: int, width: float, epochs: int
) -> None:
    codec = {"dim": dim, "bytes_per_value": width, "epochs": epochs}
    crossing = crossover_samples(tokens, module, module + more, **codec)
    full = fedavg_round(module + more).total
    below, above = math.floor(crossing * 0.999), math.ceil(crossing * 1.001) + 1
    assert hfsl_round(tokens, below, module, **codec).total <= full
    assert hfsl_round(tokens, above, module, **codec).total > full


@pytest.mark.parametrize("deep", [False, True])
def test_tokens_over_a_cut_are_those_of_the_stages(deep: bool) -> None:
    model = PromptedViT(new_fm_tiny(), 10, num_prompts=3, deep=deep).eval()
    images = torch.zeros(2, 1, 28, 28)
    for cut in range(7):
        front, _ = split_model(model, [cut])
        expected = cut_tokens(cut, depth=6, tokens=17, prompts=3, deep=deep)
        assert front(images).shape == (2, expected, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": [0]}, "tokens[0] = 0: must be at least 1"),
        ({"dim": 0}, "dim = 0: must be at least 1"),
        ({"epochs": 0}, "epochs = 0: must be at least 1"),
        ({"bytes_per_value": math.nan}, "bytes_per_value = nan: must be finite and above 0"),
        ({"module_bytes": -1}, "module_bytes = -1: must be at least 0"),
        ({"samples": -1}, "samples = -1: must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict, message: str) -> None:
    good = {"tokens": [197], "samples": 10, "module_bytes": 100, "dim": 768}
    with pytest.raises(ConfigError) as error:
        hfsl_round(**(good | arguments))
    assert str(error.value) == message


def test_a_cut_behind_the_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="cut = 13: 0 to 12, the number of blocks"):
        cut_tokens(13, depth=12, tokens=197)
