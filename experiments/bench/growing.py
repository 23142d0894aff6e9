"""Measure how long a model takes to grow, to be cut and to come back, on one core.

    python experiments/bench/growing.py
    python experiments/bench/growing.py --arch test_vit --width 96 --repeats 1 --json growing.json

ViT-Tiny to the width of ViT-Small without other words. The yardstick is a copy of the larger
model's weights in the same run: whoever grows must write that many bytes at least. The best of
several passes, which take turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch

from mfd_flower.scaling import Cut, cut, grow, shrink, size_of


def main() -> None:
    """Print seconds, and ratios to the copy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="vit_tiny_patch16_224")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = timm.create_model(given.arch, num_classes=0).eval()
    large = grow(small, embed_dim=given.width)
    size = size_of(small)
    how = Cut.of(small, num_heads=max(1, size.num_heads - 1), mlp_dim=size.mlp_dim // 2)
    works: dict[str, Callable[[], object]] = {
        "grow": lambda: grow(small, embed_dim=given.width),
        "copy of the larger": lambda: copy.deepcopy(large.state_dict()),
        "shrink": lambda: shrink(large),
        "cut": lambda: cut(small, how),
    }
    taken = dict.fromkeys(works, math.inf)
    for _ in range(given.repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            taken[name] = min(taken[name], time.perf_counter() - start)
    megabytes = sum(p.nbytes for p in large.parameters()) / 1e6
    print(
        f"{given.arch}, {size.embed_dim} to {given.width} wide, {megabytes:.1f} MB in fp32, 1 core"
    )
    for name, seconds in taken.items():
        ratio = seconds / taken["copy of the larger"]
        print(f"{name:20} {seconds * 1e3:8.1f} ms   {ratio:6.1f} x")
    if given.json:
        told = {"arch": given.arch, "width": given.width, "seconds": taken, "mb": megabytes}
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
