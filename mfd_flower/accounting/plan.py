r"""Closed forms of what each way of learning sends: for planning, and to check counted bytes by.

FedAvg sends the payload down and up once a node and round; a walk sends it once a visit. The
whitepaper's example is Llama-2-7B at 2 bytes a parameter, 10 nodes, 100 rounds: 28 TB.

What a cut of split learning carries grows with the samples of a round (GaisNet, arXiv 2401.02668,
section III), what FedAvg carries does not. With payload :math:`M`, tunables :math:`m`,
:math:`b_c` bytes of a sample over cut c in one direction and :math:`E` epochs, a round and client
costs FedAvg :math:`2 M` and a cluster :math:`2 m + 2 E n \sum_c b_c`: with fewer than :math:`n^*`
samples split learning sends less, and never less than the tunables alone,

.. math::

    n^* = \frac{M - m}{E \sum_c b_c}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mfd_flower.checks import ConfigError


@dataclass(frozen=True)
class Plan:
    """Payload bytes for `rounds` rounds of `nodes` local updates each.

    A walk makes as many visits as FedAvg local updates. With LoRA or prompts only they and the head
    travel, else the full model.
    """

    fedavg_bytes: int
    walk_bytes: int
    lora_fedavg_bytes: int
    lora_walk_bytes: int
    prompts_fedavg_bytes: int
    prompts_walk_bytes: int
    split_bytes: int
    """Split learning: activations forward and gradients back over every cut for every sample."""
    crossover_samples: float
    """Samples a client and round at which split learning of the prompts sends as much as FedAvg of
    the full model: with fewer it sends less."""


def plan(
    *,
    params: float,
    bytes_per_param: int,
    nodes: int,
    rounds: int,
    dim: int,
    layers: int,
    tokens: int,
    prompts: int,
    lora_rank: int,
    classes: int,
    samples: int,
    cuts: int,
) -> Plan:
    """Compute the closed forms.

    The transformer has `layers` blocks of width `dim` and `params` parameters; `tokens` are class
    token and patches. Prompts before every block have ``prompts * dim * layers`` parameters, LoRA
    factors beside each qkv projection ``lora_rank * (dim + 3 * dim) * layers``, the head, which
    travels with both, ``dim * classes + classes``. A node trains on `samples` a round; each of
    `cuts` carries ``tokens * dim`` numbers a sample and direction, see `cut_tokens`.
    """
    visits, head = nodes * rounds, dim * classes + classes
    full = round(params) * bytes_per_param
    lora = (lora_rank * 4 * dim * layers + head) * bytes_per_param
    prompted = (prompts * dim * layers + head) * bytes_per_param
    each = sample_bytes([tokens] * cuts, dim=dim, bytes_per_value=bytes_per_param)
    return Plan(
        fedavg_bytes=2 * full * visits,
        walk_bytes=full * visits,
        lora_fedavg_bytes=2 * lora * visits,
        lora_walk_bytes=lora * visits,
        prompts_fedavg_bytes=2 * prompted * visits,
        prompts_walk_bytes=prompted * visits,
        split_bytes=each * samples * visits,
        crossover_samples=crossover_samples(full, prompted, each),
    )


def cut_tokens(cut: int, *, depth: int, tokens: int, prompts: int = 0, deep: bool = True) -> int:
    """Return how many tokens of a sample cross a cut of a prompted vision transformer.

    `cut` is as `split_model` takes it: in front of block `cut`, or of the head if it is `depth`,
    which reads the class token alone. `tokens` are class token and patches, 197 for ViT-B/16. Deep
    prompts replace what the block before made of its own, which therefore stay behind; shallow
    ones are carried from block 0 on.
    """
    if not 0 <= cut <= depth:
        raise ConfigError("cut", cut, f"0 to {depth}, the number of blocks")
    if cut == depth:
        return 1
    return tokens + (prompts if cut > 0 and not deep else 0)


def sample_bytes(
    tokens: Sequence[int], *, dim: int, bytes_per_value: float = 4.0, epochs: int = 1
) -> int:
    """Return what a sample moves in a round over all cuts, there and back.

    `tokens` are those over each cut. Eight-bit numbers with a 4-byte scale a token take
    ``1 + 4 / dim`` bytes a value.
    """
    return 2 * epochs * sum(math.ceil(count * dim * bytes_per_value) for count in tokens)


def crossover_samples(payload_bytes: int, module_bytes: int, each_bytes: int) -> float:
    """Return the samples a client and round at which split learning and FedAvg send the same.

    0 if split learning sends more from the first sample on, infinite without a cut.
    """
    saved = 2 * (payload_bytes - module_bytes)
    if saved <= 0:
        return 0.0
    return saved / each_bytes if each_bytes else math.inf
