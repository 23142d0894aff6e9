"""A small language model follows the text: LoRA walks, in two forms, against FedAvg of LoRA.

    python -m experiments.language --json experiments/results/language/summary.json
    python -m experiments.language --seeds 1 --settings 1

A decoder of Llama's architecture with a token a character, 345,000 parameters, is trained here on a
third of the topics of Python's own manual (`pydoc_data`, 465 kB of English text and code). The
others are spread over ten nodes, as much text on each, of topics that follow each other in the
alphabet; of each topic the last sixth is for the test. Rank-4 factors of every query and value
projection are what nodes train and send: in real packets, in fp16, whose bytes are counted.
Printed: perplexity (a character) on what was held out, and kilobytes, after 1 to 3 tours or as many
visits of FedAvg. Settings are chosen on seed 100, nine a method.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.small_llama import (
    NODES,
    RANK,
    Text,
    base_model,
    perplexity,
    train,
    with_factors,
)
from mfd_flower.models.lora_terms import OWN, renamed, standing_on
from mfd_flower.models.tunables import get_tunables, set_tunables
from mfd_flower.packets import pack
from mfd_flower.sharing import fuse_lora
from mfd_flower.sharing.lora import averaged_apart
from mfd_flower.walk.traits.ensemble import mixed

TOURS = 3
Tensors = dict[str, Tensor]
Curve = list[tuple[float, float]]
"""Kilobytes so far and perplexity, after each tour."""


def sent(tensors: Mapping[str, Tensor], hop: int) -> tuple[Tensors, int]:
    """Return what a receiver decodes of a packet with these tensors, and the packet's bytes."""
    told: dict[str, Any] = {
        "packet_id": f"{hop:032x}", "model_id": "small-llama", "source": "n0",
        "destination": "n1", "ttl": 1, "hop": hop,
    }  # fmt: skip
    packet, _ = pack(tensors, codec="fp16", **told)
    return packet.decoded(), len(packet.to_bytes())


class Setting:
    """A model, the text of one seed, and how a visit trains."""

    def __init__(self, model: nn.Module, text: Text, seed: int, lr: float, steps: int) -> None:
        self.model, self.text, self.seed, self.lr, self.steps = model, text, seed, lr, steps
        self.start = get_tunables(model)
        self.rng = np.random.default_rng([seed, 7])

    def visit(self, tensors: Tensors, node: int, number: int) -> Tensors:
        """Train these factors on a node's text."""
        set_tunables(self.model, tensors)
        train(self.model, self.text.nodes[node], self.steps, self.lr, self.seed * 10_000 + number)
        return get_tunables(self.model)

    def quality(self, tensors: Tensors, terms: Mapping[str, Tensor] | None = None) -> float:
        """Return the perplexity of factors, standing on other terms."""
        set_tunables(self.model, tensors)
        with standing_on(self.model, terms or {}):
            return perplexity(self.model, self.text.test)

    def tours(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield a random order of the nodes a tour, and the visits before it."""
        for tour in range(TOURS):
            yield tour * NODES, self.rng.permutation(NODES)

    def nothing(self) -> Tensors:
        """Return factors whose product is zero."""
        return {n: t.clone() if ".lora_A." in n else torch.zeros_like(t)
                for n, t in self.start.items()}  # fmt: skip


def walk(on: Setting) -> Curve:
    """One pair of factors travels, and every node changes it; the update shrinks as it goes."""
    tensors, size, curve = on.start, 0, []
    for before, order in on.tours():
        for place, node in enumerate(order.tolist()):
            share = 1 - 0.6 * min(1.0, (before + place) / (2 * NODES))
            trained = on.visit(tensors, node, before + place)
            damped = {n: torch.lerp(tensors[n], t, share) for n, t in trained.items()}
            tensors, bytes_now = sent(damped, before + place)
            size += bytes_now
        curve.append((size / 1e3, on.quality(tensors)))
    return curve


def walk_of_terms(on: Setting) -> Curve:
    """``W0 + A1 B1 + A2 B2 + ...``: every node adds a pair, and changes that alone."""
    terms: Tensors = {}
    size, curve = 0, []
    for before, order in on.tours():
        for place, node in enumerate(order.tolist()):
            share = 1 - 0.6 * min(1.0, (before + place) / (2 * NODES))
            mine = {renamed(n, OWN, f"n{node}"): n for n in on.start}
            begun = {n: terms.get(own, on.start[n]) for own, n in mine.items()}
            others = {n: t for n, t in terms.items() if n not in mine}
            with standing_on(on.model, others):
                trained = on.visit(begun, node, before + place)
            damped = {n: torch.lerp(begun[n], t, share) for n, t in trained.items()}
            terms, bytes_now = sent({**others, **{own: damped[n] for own, n in mine.items()}},
                                    before + place)  # fmt: skip
            size += bytes_now
        curve.append((size / 1e3, on.quality(on.nothing(), terms)))
    return curve


def fedavg(on: Setting, clients: int) -> Curve:
    """FedAvg of the factors, A and B apart, as Flower's FedAvg of a peft model does."""
    tensors, size, curve, visits = on.start, 0, [], 0
    for _ in range(TOURS * NODES // clients):
        down, down_bytes = sent(tensors, visits)
        ups: list[Tensors] = []
        for node in on.rng.permutation(NODES)[:clients].tolist():
            up, up_bytes = sent(on.visit(down, node, visits), visits)
            ups.append(up)
            visits, size = visits + 1, size + down_bytes + up_bytes
        weights = [1 / clients] * clients
        tensors = mixed(ups, weights)
        if visits // NODES > (visits - clients) // NODES:
            curve.append((size / 1e3, on.quality(tensors)))
    return curve


def fused(on: Setting) -> Curve:
    """All nodes train from W0 and send their pair once: the exact mean of products, by stacking."""
    ups, size = [], 0
    for node in range(NODES):
        up, bytes_now = sent(on.visit(on.start, node, node), node)
        ups.append(up)
        size += bytes_now
    terms = {renamed(n, OWN, f"n{i}"): t if ".lora_A." in n else t / NODES
             for i, up in enumerate(ups) for n, t in up.items()}  # fmt: skip
    return [(size / 1e3, on.quality(on.nothing(), terms))] * TOURS


def bias(on: Setting) -> tuple[float, float]:
    """Return what averaging A and B apart is off, and the nearest sum of the rank of one pair."""
    ups = [on.visit(on.start, node, node) for node in range(NODES)]
    weights = [1 / NODES] * NODES
    apart, nearest = [], []
    for name in (n for n in on.start if ".lora_A." in n):
        pairs = [(up[name.replace("lora_A", "lora_B")], up[name]) for up in ups]
        apart.append(averaged_apart(pairs, weights))
        nearest.append(fuse_lora(pairs, weights, rank=RANK).error)
    return mean(apart), mean(nearest)


def local_only(on: Setting) -> Curve:
    """Nobody sends anything; the mean over the nodes' own factors."""
    own, curve = [on.start] * NODES, []
    for before, _ in on.tours():
        own = [on.visit(own[n], n, before + n) for n in range(NODES)]
        curve.append((0.0, mean(on.quality(each) for each in own)))
    return curve


def centralised(on: Setting) -> Curve:
    """All text in one place: what no method that keeps it apart is expected to beat."""
    everything, tensors, curve = torch.cat([*on.text.nodes]), on.start, []
    for before, _ in on.tours():
        set_tunables(on.model, tensors)
        train(on.model, everything, on.steps * NODES, on.lr, on.seed * 10_000 + before)
        tensors = get_tunables(on.model)
        curve.append((0.0, on.quality(tensors)))
    return curve


METHODS: dict[str, Callable[[Setting], Curve]] = {
    "walk, one pair": walk,
    "walk, a term a node": walk_of_terms,
    "FedAvg, all": lambda on: fedavg(on, NODES),
    "FedAvg, 1 client": lambda on: fedavg(on, 1),
    "fused once, exactly": fused,
    "local only": local_only,
    "centralised": centralised,
}
GRID = list(itertools.product([3e-3, 1e-2, 3e-2], [10, 20, 40]))
"""Learning rate and steps a visit."""


def begun(seed: int, steps: int, folder: Path) -> tuple[nn.Module, Text, float]:
    """Return the model with factors, the text, and the perplexity before anything is tuned."""
    text = Text.split(seed)
    base = base_model(text, steps, folder, seed)
    before = perplexity(base, text.test)
    return with_factors(base), text, before


def main(arguments: list[str] | None = None) -> None:
    """Choose, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", type=int, default=len(GRID), help="tried a method")
    parser.add_argument("--base-steps", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=Path("out/language"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    started = time.perf_counter()
    model, text, _ = begun(100, given.base_steps, given.folder)
    tried = {
        name: [
            (method(Setting(model, text, 100, lr, steps))[-1][1], lr, steps)
            for lr, steps in GRID[: given.settings]
        ]
        for name, method in METHODS.items()
    }
    chosen = {name: min(found)[1:] for name, found in tried.items()}
    curves: dict[str, list[Curve]] = {name: [] for name in METHODS}
    before, biases = [], []
    for seed in range(given.seeds):
        model, text, perplexity_before = begun(seed, given.base_steps, given.folder)
        before.append(perplexity_before)
        for name, method in METHODS.items():
            curves[name].append(method(Setting(model, text, seed, *chosen[name])))
        biases.append(bias(Setting(model, text, seed, *chosen["FedAvg, all"])))
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s")
    show(before, curves, biases)
    if given.json:
        told = {
            "command": "mfd reproduce language",
            "seeds": given.seeds,
            "tried": tried,
            "chosen": chosen,
            "before": before,
            "curves": curves,
            "averaged_apart_and_nearest_of_rank": biases,
            "python": platform.python_version(),
            "wall_seconds": time.perf_counter() - started,
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(told, indent=1) + "\n")


def show(
    before: Sequence[float],
    curves: Mapping[str, list[Curve]],
    biases: Sequence[tuple[float, float]],
) -> None:
    """Print the table as Markdown."""
    print(f"\nbefore: {spread(before)}")
    tours = [1, 2, TOURS]
    print("| | " + " | ".join(f"after {t}, kB" for t in tours) + " |")
    print("| --- |" + " --- |" * len(tours))
    for name, found in curves.items():
        cells = (
            f"{spread([c[t - 1][1] for c in found])}, {mean(c[t - 1][0] for c in found):,.0f}"
            for t in tours
        )
        print(f"| {name} | {' | '.join(cells)} |")
    for what, numbers in zip(
        ("averaged apart", "nearest of one rank"), zip(*biases, strict=True), strict=True
    ):
        print(f"{what}: {spread(numbers)} of the exact mean's norm")


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    main()
