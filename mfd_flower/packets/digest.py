"""The version of a set of tunables: one digest that changes when any bit of any of them does.

A Merkle tree over the tensors in the order of their names. Leaf, place, node and root are hashed
under different first bytes, so that none can be passed off as another. A node that keeps the leaves
gets the version after a partial update by hashing only the tensors that changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

LEAF, PLACE, NODE, ROOT = b"\x00", b"\x01", b"\x02", b"\x03"


def version_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the version of tensors of any dtypes, in any order: 64 hexadecimal digits."""
    return merkle_root(leaf_digests(tensors))


def leaf_digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the digest of each tensor; it covers name, dtype, shape and raw bytes."""
    return {name: _leaf(name, tensor) for name, tensor in tensors.items()}


def merkle_root(leaves: Mapping[str, str]) -> str:
    """Return the version that has these leaf digests; old and new leaves may be mixed."""
    level = [_sha256(PLACE, _name(n), bytes.fromhex(d)) for n, d in sorted(leaves.items())]
    while len(level) > 1:
        pairs = [_sha256(NODE, *level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        # A node without a partner moves up as it is: doubling it would let two trees share a root.
        level = pairs + level[len(level) & ~1 :]
    return _sha256(ROOT, len(leaves).to_bytes(8, "big"), *level).hex()


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's bytes in row-major order; no copy if it lies so in CPU memory."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _leaf(name: str, tensor: Tensor) -> str:
    kind = json.dumps([str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]).encode()
    head = _name(name) + len(kind).to_bytes(4, "big") + kind
    return _sha256(LEAF, head, raw_bytes(tensor)).hex()


def _name(name: str) -> bytes:
    text = name.encode()
    return len(text).to_bytes(4, "big") + text


def _sha256(*pieces: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()
