"""A model that grows in the middle of a walk, against one that was large before.

    python experiments/grown.py --json experiments/results/grown/summary.json
    python experiments/grown.py --seeds 1 --rates 1 --visits 2

A vision transformer of fm-tiny's shape, drawn at random and trained whole (nothing of it is
pre-trained), visits ten nodes of MNIST-5k twice, 100 images a node, three epochs a visit. After the
first tour it grows from 96 to 192 wide. Beside it: one that stays small, one that was grown before
its first visit, and one that was drawn large. The learning rate is chosen of three on seed 100,
each for itself. Printed: test loss right before and after the growth, accuracy at the end, FLOPs.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from mfd_flower.config import RunConfig, TrainConfig
from mfd_flower.models import build_model, evaluate, fit
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.residents import shard
from mfd_flower.scaling import grow

NODES, WIDTH, SMALL, LARGE = 10, 192, "stays small", "drawn large"
ARMS = (SMALL, "grows after a tour", "grows before", LARGE)
RATES = (3e-4, 1e-3, 3e-3)


def settings(seed: int) -> RunConfig:
    """Return a run over ten nodes with a model that is drawn."""
    return RunConfig.from_tables(
        {
            "data": {
                "name": "mnist5k", "nodes": NODES, "train_samples": 1000, "test_samples": 500,
                "partition": "dirichlet", "alpha": 0.5, "validation": 0.0,
            },
            "model": {"backbone": "random", "arch": "fm-tiny", "tune": "full"},
            "train": {"accelerator": "cpu"},
            "seed": seed,
        }
    )  # fmt: skip


def drawn(seed: int) -> PromptedViT:
    """Return a model of the larger size that was never small."""
    torch.manual_seed(seed)
    backbone = VisionTransformer(
        img_size=28,
        patch_size=7,
        in_chans=1,
        num_classes=0,
        embed_dim=WIDTH,
        depth=6,
        num_heads=6,
    )
    return PromptedViT(backbone, 10, 0)


def walked(arm: str, seed: int, lr: float, visits: int) -> dict[str, float]:
    """Walk, and return what was measured."""
    run = settings(seed)
    model: Any = build_model(run.model, 10, seed)
    if arm == LARGE:
        model = drawn(seed)
    elif arm == "grows before":
        model = grow(model, embed_dim=WIDTH)
    config = TrainConfig(lr=lr, local_epochs=3, batch_size=16, logit_adjustment=1.0)
    order = np.random.default_rng([seed, 1])
    route = np.concatenate([order.permutation(NODES) for _ in range(-(-visits // NODES))])[:visits]
    found: dict[str, float] = {"flops": 0.0}
    test = shard(run, "test")
    for number, node in enumerate(route.tolist()):
        if number == visits // 2 and arm == "grows after a tour":
            found["loss_before"] = evaluate(model, test).loss
            model = grow(model, embed_dim=WIDTH)
            found["loss_after"] = evaluate(model, test).loss
        result = fit(model.requires_grad_(True), shard(run, node), config, seed=number)
        found["flops"] += result.flops
    measured = evaluate(model, test)
    return {**found, "accuracy": measured.accuracy, "loss": measured.loss}


def main(arguments: list[str] | None = None) -> None:
    """Choose, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=int, default=len(RATES), help="tried for each")
    parser.add_argument("--visits", type=int, default=2 * NODES)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    started = time.perf_counter()
    tried = {
        arm: [(lr, walked(arm, 100, lr, given.visits)["accuracy"]) for lr in RATES[: given.rates]]
        for arm in ARMS
    }
    chosen = {arm: max(found, key=lambda pair: pair[1])[0] for arm, found in tried.items()}
    runs = {
        arm: [walked(arm, seed, chosen[arm], given.visits) for seed in range(given.seeds)]
        for arm in ARMS
    }
    print("| | accuracy | loss | TFLOP | lr |\n| --- | --- | --- | --- | --- |")
    for arm, found in runs.items():
        cells = (spread(found, "accuracy"), spread(found, "loss"))
        flops = mean(each["flops"] for each in found) / 1e12
        print(f"| {arm} | {' | '.join(cells)} | {flops:.2f} | {chosen[arm]:g} |")
    grown = runs[ARMS[1]]
    jump = max(abs(each["loss_after"] - each["loss_before"]) for each in grown)
    print(f"\ntest loss moves by {jump:.1e} at most where it grows")
    if given.json:
        told = {
            "command": "python experiments/grown.py",
            "seeds": given.seeds,
            "tried": tried,
            "runs": runs,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "wall_seconds": time.perf_counter() - started,
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(told, indent=1) + "\n")


def spread(found: Sequence[Mapping[str, float]], name: str) -> str:
    """Return mean and standard deviation."""
    values = [each[name] for each in found]
    return f"{mean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    main()
