"""Where the bytes of split learning and of FedAvg cross: closed forms over samples and cuts.

HFSL is GaisNet's clusters with split fine-tuning (arXiv 2401.02668, section III). What a cut
carries grows with the samples of a round, what FedAvg carries does not; so below some number of
samples split learning sends less than the full model, and never less than the tunables alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mfd_flower.checks import ConfigError


@dataclass(frozen=True)
class RoundBytes:
    """Payload bytes of one round for the samples of one client, over each kind of link."""

    up: int
    down: int
    d2d: int = 0

    @property
    def total(self) -> int:
        """Return the sum over all links."""
        return self.up + self.down + self.d2d


def cut_tokens(cut: int, *, depth: int, tokens: int, prompts: int = 0, deep: bool = True) -> int:
    """Return how many tokens of a sample cross a cut of a prompted vision transformer.

    Parameters
    ----------
    cut : int
        As `split_model` takes it: in front of block `cut`, or of the head if it is `depth`.
    depth : int
        Blocks of the transformer.
    tokens : int
        Class token and patches; 197 for ViT-B/16.
    prompts : int
        Prompt tokens a prompted block.
    deep : bool
        Every block has prompts of its own. They replace what the block before made of its prompts,
        which therefore stays behind; shallow ones are carried from block 0 on.

    Returns
    -------
    int
        1 in front of the head, which reads the class token alone.
    """
    _at_least(1, depth=depth, tokens=tokens)
    _at_least(0, prompts=prompts)
    if not 0 <= cut <= depth:
        raise ConfigError("cut", cut, f"0 to {depth}, the number of blocks")
    if cut == depth:
        return 1
    return tokens + (prompts if cut > 0 and not deep else 0)


def hfsl_round(
    tokens: Sequence[int],
    samples: int,
    module_bytes: int,
    *,
    dim: int,
    bytes_per_value: float = 4.0,
    epochs: int = 1,
) -> RoundBytes:
    """Return the bytes of one cluster's round: the samples of its first member, once an epoch.

    Every sample goes forward over each cut as activations and comes back as gradients. The modules
    of all members together are the tunables once, down at the start and up at the end.

    Parameters
    ----------
    tokens : sequence of int
        Tokens of a sample that cross each cut, as `cut_tokens` counts them.
    samples : int
        Samples of the first member.
    module_bytes : int
        Bytes of all tunables.
    dim : int
        Width of a token; 768 for ViT-B/16.
    bytes_per_value : float
        Of the codec; 8-bit numbers with a 4-byte scale a token take ``1 + 4 / dim``.
    epochs : int
        Passes over the samples in a round.
    """
    _at_least(0, samples=samples, module_bytes=module_bytes)
    each = _sample_bytes(tokens, dim, bytes_per_value, epochs)
    return RoundBytes(module_bytes, module_bytes, each * samples)


def fedavg_round(payload_bytes: int) -> RoundBytes:
    """Return the bytes of one client's round of FedAvg: the payload down and up."""
    _at_least(0, payload_bytes=payload_bytes)
    return RoundBytes(payload_bytes, payload_bytes)


def crossover_samples(
    tokens: Sequence[int],
    module_bytes: int,
    payload_bytes: int,
    *,
    dim: int,
    bytes_per_value: float = 4.0,
    epochs: int = 1,
) -> float:
    r"""Return the samples a round and client at which HFSL and FedAvg send the same in all.

    .. math::

        n^* = \frac{2 (M - m)}{2 E \sum_c b_c}

    with :math:`M` FedAvg's payload, :math:`m` the tunables of HFSL, :math:`b_c` the bytes of a
    sample over cut c in one direction and :math:`E` epochs. With fewer samples HFSL sends less,
    with more it sends more. It is 0 if HFSL sends more from the first sample on, as against FedAvg
    of the same tunables, and infinite without a cut.

    Parameters
    ----------
    tokens, module_bytes, dim, bytes_per_value, epochs
        As `hfsl_round` takes them.
    payload_bytes : int
        What FedAvg sends one way: the full model, or prompts and head.
    """
    saved = fedavg_round(payload_bytes).total - fedavg_round(module_bytes).total
    each = _sample_bytes(tokens, dim, bytes_per_value, epochs)
    if saved <= 0:
        return 0.0
    return saved / each if each else math.inf


def _sample_bytes(tokens: Sequence[int], dim: int, bytes_per_value: float, epochs: int) -> int:
    """Return what a sample moves over all cuts, there and back, in a round."""
    _at_least(1, dim=dim, epochs=epochs)
    for index, count in enumerate(tokens):
        _at_least(1, **{f"tokens[{index}]": count})
    if not 0 < bytes_per_value < math.inf:
        raise ConfigError("bytes_per_value", bytes_per_value, "must be finite and above 0")
    return 2 * epochs * sum(math.ceil(count * dim * bytes_per_value) for count in tokens)


def _at_least(low: int, **values: int) -> None:
    for name, value in values.items():
        if value < low:
            raise ConfigError(name, value, f"must be at least {low}")
