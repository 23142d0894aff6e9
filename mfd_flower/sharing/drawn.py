"""What generators draw, as one picture: a row a node, some images of each class in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

EACH = 3
"""Images of a class."""
MOST_NODES, MOST_CLASSES = 20, 16
"""That a sheet has room for: it is in the results of every run."""
GAP_PX = 2
LEVELS = 16
"""Shades of a colour, so that a sheet takes some tens of kilobytes."""


def drawn_sheet(images: Mapping[str, Tensor]) -> str:
    """Return a PNG in base64 of images ``(classes, EACH, channels, height, width)`` by node.

    Values are from 0 to 1, and NaN where a node has no image of a class.
    """
    rows = []
    for of_node in [*images.values()][:MOST_NODES]:
        shown = of_node[:MOST_CLASSES].nan_to_num(1.0)
        cells = shown.flatten(0, 1)[:, :3] if shown.shape[2] >= 3 else shown.flatten(0, 1)[:, :1]
        padded = torch.nn.functional.pad(cells, (GAP_PX, GAP_PX, GAP_PX, GAP_PX), value=1.0)
        rows.append(torch.cat([*padded], dim=2))
    page = (torch.cat(rows, dim=1) * (LEVELS - 1)).round() * (255 // (LEVELS - 1))
    pixels = page.to(torch.uint8).permute(1, 2, 0).squeeze(2).numpy()
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
