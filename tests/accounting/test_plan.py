"""Bytes of split learning against FedAvg: ViT-B/16 by hand, and the stages' own smashed data."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.accounting.plan import crossover_samples, cut_tokens, plan, sample_bytes
from mfd_flower.checks import ConfigError
from mfd_flower.models.arch import new_fm_tiny
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.stages import split_model

VIT_B16_BYTES = 343_194_624
"""85,798,656 backbone parameters without a head, 4 bytes each."""
SMASHED = 605_184
"""197 tokens of 768 numbers of 4 bytes."""


def crossing(tokens: list[int], epochs: int = 1, width: float = 4.0, module: int = 0) -> float:
    each = sample_bytes(tokens, dim=768, bytes_per_value=width, epochs=epochs)
    return crossover_samples(VIT_B16_BYTES, module, each)


def test_vit_b16_by_hand() -> None:
    """2 epochs: twice over the cut and back. One cut: (343,194,624 - 400,000) / 605,184 samples."""
    assert sample_bytes([197], dim=768, epochs=2) == 4 * SMASHED
    assert crossing([197], module=400_000) == pytest.approx(566.43, abs=0.005)


def test_three_cuts_or_three_epochs_cross_at_a_third() -> None:
    assert crossing([197] * 3) == pytest.approx(crossing([197]) / 3)
    assert crossing([197], epochs=3) == pytest.approx(crossing([197]) / 3)


def test_eight_bits_a_value_cross_at_nearly_four_times_the_samples() -> None:
    """A token takes 772 bytes instead of 3,072."""
    assert crossing([197], width=1 + 4 / 768) / crossing([197]) == pytest.approx(3072 / 772)


def test_never_less_than_fedavg_of_the_same_tunables_and_always_without_a_cut() -> None:
    assert crossover_samples(400_000, 400_000, SMASHED) == 0
    assert crossover_samples(2, 1, sample_bytes([], dim=768)) == math.inf


@given(
    tokens=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    dim=st.integers(1, 1024),
    module=st.integers(0, 10**6),
    more=st.integers(1, 10**9),
    width=st.sampled_from([1.0, 2.0, 4.0]),
    epochs=st.integers(1, 5),
)
def test_a_cluster_sends_less_below_the_crossing_and_more_above(
    tokens: list[int], dim: int, module: int, more: int, width: float, epochs: int
) -> None:
    each = sample_bytes(tokens, dim=dim, bytes_per_value=width, epochs=epochs)
    found = crossover_samples(module + more, module, each)
    below, above = math.floor(found * 0.999), math.ceil(found * 1.001) + 1
    assert 2 * module + each * below <= 2 * (module + more) < 2 * module + each * above


def test_the_plan_crosses_where_its_own_bytes_do() -> None:
    """Prompts once down and up, and what the cuts carry, are FedAvg's bytes of the full model."""
    settings = {"params": 86e6, "bytes_per_param": 4, "nodes": 10, "rounds": 100, "dim": 768}
    settings |= {"layers": 12, "tokens": 197, "prompts": 8, "lora_rank": 4, "classes": 10}
    found = plan(**settings, samples=1, cuts=3)
    sent = found.prompts_fedavg_bytes + found.crossover_samples * found.split_bytes
    assert sent == pytest.approx(found.fedavg_bytes)


@pytest.mark.parametrize("deep", [False, True])
def test_tokens_over_a_cut_are_those_of_the_stages(deep: bool) -> None:
    model = PromptedViT(new_fm_tiny(), 10, num_prompts=3, deep=deep).eval()
    images = torch.zeros(2, 1, 28, 28)
    for cut in range(7):
        front, _ = split_model(model, [cut])
        expected = cut_tokens(cut, depth=6, tokens=17, prompts=3, deep=deep)
        assert front(images).shape == (2, expected, 96)


def test_a_cut_behind_the_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="cut = 13: 0 to 12, the number of blocks"):
        cut_tokens(13, depth=12, tokens=197)
