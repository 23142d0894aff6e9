"""Measure how fast tunables are encoded and decoded, against safetensors' own speed.

    python experiments/bench/codecs.py                        # about 50 MB of fp32 tensors
    python experiments/bench/codecs.py --megabytes 500 --json codecs.json

One core. All rates are GB of fp32 tunables a second, whatever the codec makes of them, and the
best of several passes that take turns, so that load from elsewhere falls on all alike. The ratios
are to `safetensors.torch.save` (encode) and `load` (decode) of the same tensors in the same run.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from mfd_flower.packets import CODECS, decode, encode, version_digest

SHAPES = {"qkv": (2304, 768), "proj": (768, 768), "norm": (768,), "prompts": (1, 50, 768)}
"""Tensors of a ViT-B/16 block: wide and square matrices, a vector, prompts."""


def make_tensors(megabytes: float) -> dict[str, Tensor]:
    """Return blocks of normally distributed tensors, of `megabytes` at least."""
    generator = torch.Generator().manual_seed(0)
    block_bytes = 4 * sum(math.prod(shape) for shape in SHAPES.values())
    return {
        f"blocks.{number}.{name}": torch.randn(shape, generator=generator)
        for number in range(math.ceil(megabytes * 1e6 / block_bytes))
        for name, shape in SHAPES.items()
    }


def fastest(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the shortest time of each piece of work in seconds; they take turns."""
    taken = dict.fromkeys(works, math.inf)
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            taken[name] = min(taken[name], time.perf_counter() - start)
    return taken


def measure(tensors: dict[str, Tensor], repeats: int) -> dict[str, float]:
    """Return GB of fp32 tunables a second for each codec and direction, and for safetensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    saved = safetensors.torch.save(tensors)
    works: dict[str, Callable[[], object]] = {
        "safetensors save": partial(safetensors.torch.save, tensors),
        "safetensors load": partial(safetensors.torch.load, saved),
        "version digest": partial(version_digest, tensors),
    }
    for codec in CODECS:
        encoded, residual = encode(tensors, codec)
        works[f"{codec} encode"] = partial(encode, tensors, codec, residual)
        works[f"{codec} decode"] = partial(decode, encoded, codec, shapes)
    size = sum(tensor.nbytes for tensor in tensors.values())
    return {name: size / seconds / 1e9 for name, seconds in fastest(works, repeats).items()}


def main() -> None:
    """Print the rates, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description="Speed of the payload codecs on one core.")
    parser.add_argument("--megabytes", type=float, default=50, help="of fp32 tensors")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rates = measure(make_tensors(args.megabytes), args.repeats)
    against = {"encode": rates["safetensors save"], "decode": rates["safetensors load"]}
    for name in ("safetensors save", "safetensors load", "version digest"):
        print(f"{name:<18}{rates[name]:6.2f} GB/s")
    for codec in CODECS:
        for direction, rate in against.items():
            name = f"{codec} {direction}"
            rates[f"{name} ratio"] = rates[name] / rate
            print(f"{name:<18}{rates[name]:6.2f} GB/s   x{rates[f'{name} ratio']:.2f}")
    if args.json:
        args.json.write_text(json.dumps(rates, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
