"""Settings of small walks with ledgers, and of judged walks of sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mfd_flower.config import RunConfig
from tests.walk.summed import HEAD, JUDGED, NODES, Settings
from tests.walk.walks import options


@pytest.fixture
def signed(make_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """Return a builder of signed walks; a trait that is None is left out."""

    def build(
        rounds: int = 3,
        nodes: int = 5,
        policy: Any = "random",
        walkers: int = 1,
        samples: int = 20,
        held_out: int = 100,
        threat: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        **traits: Any,
    ) -> RunConfig:
        chosen = {
            name: table for name, table in {"ledger": {}, **traits}.items() if table is not None
        }
        return make_run(
            "mfd-walk",
            rounds=rounds,
            data={"nodes": nodes, "train_samples": samples * nodes, "test_samples": held_out},
            model={"tune": "head"},
            threat=threat or {},
            train=train or {},
            options=options(policy, walkers, **chosen),
        )

    return build


@pytest.fixture
def judged(make_run: Settings) -> Settings:
    """Return a builder of exact walks with admission, of which a share of the nodes may lie."""

    def build(kind: str = "", scale: float = 1.0, share: float = 0.2, **told: Any) -> RunConfig:
        options = {"traits": told.pop("traits", JUDGED), **told.pop("options", {})}
        data = {"nodes": NODES, "train_samples": 360, "partition": "iid", **told.pop("data", {})}
        threat = {"kind": kind, "share": share, "scale": scale}
        return make_run(
            "exact-walk", 3, data=data, options=options, threat=threat, model=HEAD, **told
        )

    return build
