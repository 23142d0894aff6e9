"""Closed forms of what each way of learning sends: for planning, and to check counted bytes by.

Spec: FedAvg sends the payload down and up once a node and round; a walk sends it once a visit. The
whitepaper's example is Llama-2-7B at 2 bytes a parameter, 10 nodes, 100 rounds: 28 TB.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Plan:
    """Payload bytes for `rounds` rounds of `nodes` local updates each.

    Attributes
    ----------
    fedavg_bytes, walk_bytes : int
        The full model by FedAvg, and by a walk of as many visits.
    lora_fedavg_bytes, lora_walk_bytes : int
        LoRA factors and head only.
    prompts_fedavg_bytes, prompts_walk_bytes : int
        Prompts and head only.
    split_bytes : int
        Split learning: activations forward and gradients back over every cut for every sample.
    """

    fedavg_bytes: int
    walk_bytes: int
    lora_fedavg_bytes: int
    lora_walk_bytes: int
    prompts_fedavg_bytes: int
    prompts_walk_bytes: int
    split_bytes: int

    def as_dict(self) -> dict[str, int]:
        """Return the fields by name."""
        return asdict(self)


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

    Parameters
    ----------
    params : float
        Parameters of the full model.
    bytes_per_param : int
        Bytes of one number on the wire.
    nodes, rounds : int
        Federation and duration.
    dim, layers, tokens : int
        Width, blocks and tokens (class token and patches) of the transformer.
    prompts : int
        Prompt tokens before every block: ``prompts * dim * layers`` parameters.
    lora_rank : int
        Rank r of the factors beside each qkv projection: ``r * (dim + 3 * dim) * layers``.
    classes : int
        Head of ``dim * classes + classes`` parameters, which travels with both.
    samples : int
        Samples a node trains on in one round.
    cuts : int
        Places where the model is split; each carries ``tokens * dim`` numbers a sample and
        direction: prompts that the next block replaces stay behind (`split.crossover.cut_tokens`).
    """
    visits = nodes * rounds
    head = dim * classes + classes
    full = round(params) * bytes_per_param
    lora = (lora_rank * 4 * dim * layers + head) * bytes_per_param
    prompted = (prompts * dim * layers + head) * bytes_per_param
    smashed = tokens * dim * bytes_per_param
    return Plan(
        fedavg_bytes=2 * full * visits,
        walk_bytes=full * visits,
        lora_fedavg_bytes=2 * lora * visits,
        lora_walk_bytes=lora * visits,
        prompts_fedavg_bytes=2 * prompted * visits,
        prompts_walk_bytes=prompted * visits,
        split_bytes=2 * cuts * smashed * samples * visits,
    )
