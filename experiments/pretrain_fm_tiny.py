"""Pre-train fm-tiny, the small foundation model that ships with this package.

The corpus is drawn, not collected: letters (never digits) of the Latin, Greek and Cyrillic
alphabets in the fonts that matplotlib ships (DejaVu, STIX, Computer Modern; all free to use),
each one bent, sheared, thinned or thickened anew every time it is seen. The task is to name the
letter. Nothing is downloaded, and the same seed draws the same corpus.

    python experiments/pretrain_fm_tiny.py            # about 20 minutes on 2 CPU cores
    python experiments/pretrain_fm_tiny.py --steps 50 --out /tmp/try.safetensors
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor, nn

from mfd_flower.models.arch import new_fm_tiny
from mfd_flower.models.backbones import FM_TINY_FILE

LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμνξπρςστφχψω"
CYRILLIC = "БГДЖЗИЛУЦЧШЫЭЮЯбвдзийкцчшыэюя"
FONT_PATTERNS = ("DejaVuS*.ttf", "STIXGeneral*.ttf", "cm[brst]*10.ttf", "cmmi10.ttf")
CANVAS_PX = 64
BOX_PX = 46
IMAGE_PX = 28


def draw_glyphs() -> tuple[Tensor, Tensor, int]:
    """Draw every letter in every font that has it.

    Returns white letters on black, ``(glyphs, 1, 64, 64)`` in [0, 1], the index of each letter
    ``(glyphs,)``, and the number of letters. Latin ones whose two cases look alike count as one.
    """
    letters = LATIN + GREEK + CYRILLIC
    names = {char: char.lower() if char.lower() in set("cosvwxz") else char for char in letters}
    index = {name: number for number, name in enumerate(dict.fromkeys(names.values()))}
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = sorted({path for pattern in FONT_PATTERNS for path in folder.glob(pattern)})
    glyphs, labels = [], []
    for path in files:
        covered = FT2Font(str(path)).get_charmap()
        font = ImageFont.truetype(str(path), 44)
        for char in letters:
            canvas = Image.new("L", (CANVAS_PX, CANVAS_PX))
            centre = (CANVAS_PX / 2, CANVAS_PX / 2)
            ImageDraw.Draw(canvas).text(centre, char, fill=255, font=font, anchor="mm")
            if ord(char) in covered and canvas.getbbox():
                glyphs.append(fit_in_box(canvas))
                labels.append(index[names[char]])
    return torch.from_numpy(np.stack(glyphs))[:, None], torch.tensor(labels), len(index)


def fit_in_box(canvas: Image.Image) -> np.ndarray:
    """Scale the ink to a 46-pixel box and centre it by mass, as MNIST's digits are."""
    ink = canvas.crop(canvas.getbbox())
    scale = BOX_PX / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    pixels = np.asarray(ink.resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
    boxed = np.zeros((CANVAS_PX, CANVAS_PX), dtype=np.float32)
    boxed[: size[1], : size[0]] = pixels
    rows, columns = np.indices(boxed.shape)
    centre = (CANVAS_PX - 1) / 2
    down = round(centre - (rows * boxed).sum() / boxed.sum())
    right = round(centre - (columns * boxed).sum() / boxed.sum())
    return np.roll(boxed, (down, right), axis=(0, 1))


def distort(glyphs: Tensor, generator: torch.Generator) -> Tensor:
    """Bend printed letters until they look as if a hand had drawn them.

    ``(batch, 1, 64, 64)`` in [0, 1] become ``(batch, 1, 28, 28)`` by an affine map, an elastic
    field, stroke width and grey noise, all drawn from `generator`.
    """
    n = len(glyphs)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    angle, shear = uniform(-0.35, 0.35), uniform(-0.35, 0.35)
    wide, high = uniform(0.75, 1.25), uniform(0.75, 1.15)
    cos, sin = torch.cos(angle), torch.sin(angle)
    across = torch.stack([cos * wide, (-sin + shear) * wide, uniform(-0.12, 0.12)], -1)
    down = torch.stack([sin * high, cos * high, uniform(-0.12, 0.12)], -1)
    affine = torch.stack([across, down], 1)
    grid = F.affine_grid(affine, [n, 1, IMAGE_PX, IMAGE_PX], align_corners=False)
    fields = []
    for knots, most in ((5, 0.09), (9, 0.025)):
        shifts = torch.randn(n, 2, knots, knots, generator=generator) * uniform(0.0, most, 1, 1, 1)
        fields.append(F.interpolate(shifts, size=IMAGE_PX, mode="bicubic", align_corners=True))
    # Stroke width: blur at canvas size, then cut at a random level.
    soft = F.avg_pool2d(F.avg_pool2d(glyphs, 5, 1, 2), 5, 1, 2)
    grid = grid + (fields[0] + fields[1]).permute(0, 2, 3, 1)
    bent = F.grid_sample(soft, grid, align_corners=False)
    level, slope = uniform(0.12, 0.55, 1, 1, 1), uniform(5.0, 16.0, 1, 1, 1)
    ink = torch.sigmoid((bent - level) * slope)
    floor = torch.sigmoid(-level * slope)
    ink = ((ink - floor) / (1 - floor)).clamp(0, 1)
    peak = ink.amax(dim=(2, 3), keepdim=True).clamp_min(0.2)
    noise = torch.randn(ink.shape, generator=generator) * uniform(0.0, 0.06, 1, 1, 1)
    return (ink / peak + noise).clamp(0, 1)


def pretrain(steps: int, batch_size: int, seed: int) -> nn.Module:
    """Train fm-tiny to name distorted letters; returns the backbone without its classifier."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    glyphs, labels, num_classes = draw_glyphs()
    print(f"{len(glyphs)} glyphs of {num_classes} letters, {steps} steps of {batch_size}")
    backbone = new_fm_tiny()
    head = nn.Linear(backbone.embed_dim, num_classes)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.1
    )
    seen = hits = 0
    start = time.monotonic()
    backbone.train()
    for step in range(1, steps + 1):
        pick = torch.randint(len(glyphs), (batch_size,), generator=generator)
        images = (distort(glyphs[pick], generator) - 0.5) / 0.5
        logits = head(backbone.forward_head(backbone.forward_features(images), pre_logits=True))
        loss = F.cross_entropy(logits, labels[pick], label_smoothing=0.1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        seen, hits = seen + batch_size, hits + int((logits.argmax(1) == labels[pick]).sum())
        if step % 100 == 0 or step == steps:
            minutes = (time.monotonic() - start) / 60
            print(f"step {step}  accuracy {hits / seen:.3f}  {minutes:.1f} min", flush=True)
            seen = hits = 0
    return backbone.eval()


def main() -> None:
    """Train and write the weights as fp16 safetensors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / FM_TINY_FILE)
    args = parser.parse_args()
    backbone = pretrain(args.steps, args.batch_size, args.seed)
    weights = {name: value.half().contiguous() for name, value in backbone.state_dict().items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out, metadata={"steps": str(args.steps), "seed": str(args.seed)})
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
