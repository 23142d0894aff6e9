"""Small settings that every package's tests share."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
# Tests and what they start run side by side, one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Numbers are those of a CPU, whatever the machine has.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import hypothesis
import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from mfd_flower.config import RunConfig

logging.getLogger("flwr").setLevel(logging.ERROR)
# How long a case takes depends on what else the machine does; speed is for benchmarks.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def _in_a_run() -> None:
    """Let tests make messages of their own: Flower refuses that outside of a run."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 0


@pytest.fixture
def make_run() -> Callable[..., RunConfig]:
    """Return a builder of settings for a run of seconds: three nodes, digits, fm-tiny."""

    def build(
        strategy: str = "mfd-walk", rounds: int = 1, seed: int = 0, **tables: Any
    ) -> RunConfig:
        data = {
            "name": "digits",
            "nodes": 3,
            "train_samples": 48,
            "test_samples": 40,
            "validation": 0.0,
        }
        train = {"accelerator": "cpu", **tables.pop("train", {})}
        options = json.dumps(tables.pop("options", {}))
        return RunConfig.from_tables(
            {
                "data": {**data, **tables.pop("data", {})},
                "train": train,
                "strategy": {"name": strategy, "rounds": rounds, "options": options},
                "seed": seed,
                **tables,
            }
        )

    return build
