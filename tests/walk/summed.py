"""Walks of sums that are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from flwr.app import ArrayRecord

from mfd_flower.config import RunConfig
from mfd_flower.ledger import Entry
from mfd_flower.packets.digest import version_digest
from mfd_flower.records import tensors_of
from mfd_flower.walk import summing
from tests.harness import Trial
from tests.strategies.test_exact_walk import whole
from tests.walk.walks import chains_of

NODES = 6
JUDGED: dict[str, dict[str, Any]] = {"ledger": {}, "admission": {}}
Settings = Callable[..., RunConfig]
HEAD = {"tune": "head"}


def refusals(walked: Trial) -> list[Entry]:
    return [entry for entry in chains_of(walked).entries if entry.kind == "refusal"]


def digest_without(run: RunConfig, *addresses: str) -> str:
    """Return the version of the sums of all nodes but some, from their data in one place."""
    left_out = tuple(int(address.removeprefix("n")) for address in addresses)
    return version_digest({"sums": summing.as_tensor(whole(run, left_out))})


def result(walked: Trial) -> dict[str, Any]:
    return vars(walked.strategy)


def model(walked: Trial) -> dict[str, torch.Tensor]:
    arrays = walked.models[-1]
    assert isinstance(arrays, ArrayRecord)
    return tensors_of(arrays)
