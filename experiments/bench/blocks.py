"""What a training step of deep prompts costs as keys and values, and as rows of every block.

    python experiments/bench/blocks.py --out experiments/results/bench

Steps of 16 samples through the same blocks, the two forms in turn: CPU time of one thread, the
least of all steps, and what autograd saves. `rows` is VPT's equation 4 as it is mostly written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from mfd_flower.files import write_json
from mfd_flower.models.arch import new_fm_tiny
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.trunk import Trunk

BATCH, CLASSES = 16, 10
CASES: dict[str, Callable[[], PromptedViT]] = {
    "fm-tiny, 8 prompts": lambda: PromptedViT(new_fm_tiny(), CLASSES, 8),
    "ViT-S/14, 112 px, 10 prompts": lambda: small(10),
    "ViT-S/14, 112 px, 50 prompts": lambda: small(50),
    "ViT-S/14, 112 px, 10 prompts from block 9": lambda: small(10, 9),
}


def small(prompts: int, prompt_from: int = 0) -> PromptedViT:
    """Return a ViT-S without its weights, which cost no time."""
    trunk = timm.create_model("vit_small_patch14_dinov2", img_size=112, num_classes=0)
    return PromptedViT(cast(Trunk, trunk), CLASSES, prompts, prompt_from=prompt_from)


def as_rows(model: PromptedViT, tokens: Tensor) -> Tensor:
    """Return the logits, prompts being rows that each block takes in and gives back."""
    prefix, count = model.backbone.num_prefix_tokens, model.num_prompts
    for block, prompts in zip(
        model.backbone.blocks[model.prompt_from :], model.prompts[model.prompt_from :], strict=True
    ):
        seen = prompts.expand(len(tokens), -1, -1)
        found = block(torch.cat([tokens[:, :prefix], seen, tokens[:, prefix:]], 1))
        tokens = torch.cat([found[:, :prefix], found[:, prefix + count :]], 1)
    return model.head(model.backbone.forward_head(model.backbone.norm(tokens), pre_logits=True))


def measure(model: PromptedViT, repeats: int) -> dict[str, float]:
    """Return CPU milliseconds of a step and saved megabytes in both forms, and their ratios."""
    model.train()
    tokens = torch.randn(BATCH, 1 + model.grid[0] * model.grid[1], model.backbone.embed_dim)
    labels, stage = torch.arange(BATCH) % CLASSES, f"block-{model.prompt_from}"
    forms = {
        "rows": lambda: as_rows(model, tokens),
        "keys": lambda: model.forward_from(stage, tokens),
    }
    torch.testing.assert_close(forms["rows"](), forms["keys"](), rtol=0, atol=1e-4)
    spent: dict[str, list[float]] = {name: [] for name in forms}
    saved = dict.fromkeys(forms, 0)
    for _ in range(repeats):
        for name, form in forms.items():
            kept: dict[int, int] = {}

            def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
                storage = tensor.untyped_storage()
                kept[storage.data_ptr()] = storage.nbytes()
                return tensor

            start = time.process_time()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = F.cross_entropy(form(), labels)
            loss.backward()
            spent[name].append(1e3 * (time.process_time() - start))
            own = {p.untyped_storage().data_ptr() for p in model.parameters()}
            saved[name] = sum(size for place, size in kept.items() if place not in own)
            model.zero_grad()
    found = {f"{name}_ms": min(times) for name, times in spent.items()}
    found |= {f"{name}_saved_mb": size / 1e6 for name, size in saved.items()}
    return {
        **found,
        "time_ratio": found["keys_ms"] / found["rows_ms"],
        "saved_ratio": saved["keys"] / saved["rows"],
    }


def main() -> None:
    """Measure all cases, print them and write JSON."""
    parser = argparse.ArgumentParser(description="Deep prompts: keys and values against rows.")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    for name, build in CASES.items():
        results[name] = found = measure(build(), args.repeats)
        print(
            f"{name:<44}{found['rows_ms']:7.1f} ms{found['keys_ms']:8.1f} ms"
            f"{found['time_ratio']:7.2f}   saved {found['rows_saved_mb']:6.1f} MB"
            f"{found['keys_saved_mb']:7.1f} MB{found['saved_ratio']:7.2f}"
        )
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "blocks.json", results)


if __name__ == "__main__":
    main()
