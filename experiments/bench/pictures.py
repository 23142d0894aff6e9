"""What decoding a folder of photos takes: seconds, and memory above what the imports take.

    python experiments/bench/pictures.py --photos 1000 --megapixels 12

The photos are drawn once into a folder: smooth colours, shapes and noise, so that a JPEG of 12 MP
has about 4 MB. Another process then loads them for a backbone of 224 px and deals them to ten
nodes. Linux only: the kernel keeps the peak of resident memory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from joblib import cpu_count
from PIL import Image, ImageDraw

from mfd_flower.config import DataConfig
from mfd_flower.data import load_federation
from mfd_flower.data.samples import InputSpec

# What a run imports as it goes counts as imports too.
for module in (
    "mfd_flower.runtime.runner",
    "timm.data",
    "torchvision.datasets.folder",
    "datasets",
    "flwr_datasets.partitioner",
):
    importlib.import_module(module)

CLASSES, NODES = 10, 10
SPEC = InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3, crop_pct=0.9)


def draw_photo(file: Path, megapixels: float, number: int) -> None:
    """Draw one photo, three to two."""
    rng = np.random.default_rng(number)
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    size = (round(1.5 * height), height)
    coarse = Image.fromarray(rng.integers(256, size=(8, 12, 3), dtype=np.uint8))
    photo = coarse.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(photo)
    for _ in range(40):
        left, top = (int(rng.integers(side)) for side in size)
        far = int(rng.integers(height // 20, height // 4))
        colour = tuple(rng.integers(256, size=3).tolist())
        pen.ellipse((left, top, left + far, top + far), fill=colour)
    noise = Image.effect_noise((size[0] // 2, size[1] // 2), 60).resize(size)
    begun = file.with_suffix(".part")
    Image.blend(photo, noise.convert("RGB"), 0.25).save(begun, "JPEG", quality=92)
    begun.rename(file)


def draw_photos(folder: Path, photos: int, megapixels: float) -> None:
    """Draw those that are missing."""
    with ProcessPoolExecutor(cpu_count()) as pool:
        begun = []
        for number in range(photos):
            file = folder / f"class {number % CLASSES}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                begun.append(pool.submit(draw_photo, file, megapixels, number))
        for each in begun:
            each.result()


def resident_mb(kind: str) -> float:
    """Return ``VmRSS``, what is resident now, or ``VmHWM``, the most that was."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def load(folder: Path, photos: int) -> dict[str, float]:
    """Load the photos in this process."""
    # So that what the imports took for a moment does not count as the peak.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before_mb, started = resident_mb("VmRSS"), time.perf_counter()
    config = DataConfig(f"folder:{folder}", nodes=NODES, train_samples=0, test_samples=photos // 5)
    federation = load_federation(config, 0, SPEC)
    seconds = time.perf_counter() - started
    return {
        "photos": len(federation.images.labels),
        "file_mb": sum(file.stat().st_size for file in folder.rglob("*.jpg")) / 1e6,
        "threads": cpu_count(),
        "seconds": round(seconds, 2),
        "photos_per_s": round(photos / seconds, 1),
        "after_imports_mb": round(before_mb, 1),
        "pixels_mb": round(federation.images.images.nbytes / 2**20, 1),
        "peak_above_imports_mb": round(resident_mb("VmHWM") - before_mb, 1),
        "at_end_above_imports_mb": round(resident_mb("VmRSS") - before_mb, 1),
    }


def main() -> None:
    """Draw, load in a process of its own, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--folder", type=Path, default=Path("out/photos"))
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    chosen = parser.parse_args()
    folder = chosen.folder / f"{chosen.photos} of {chosen.megapixels:g} MP"
    draw_photos(folder, chosen.photos, chosen.megapixels)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        found = pool.submit(load, folder, chosen.photos).result()
    for name, value in found.items():
        print(f"{name:24} {value:8g}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
