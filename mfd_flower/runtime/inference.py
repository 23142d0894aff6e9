"""Ask a cluster: what split inference answers, how fast, and what delivering its stages costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models import build_model, set_tunables
from mfd_flower.node import initial_tunables
from mfd_flower.records import tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid, metered
from mfd_flower.strategy import build_strategy

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Served:
    """One request, from delivering the stages to the result at the asker."""

    shipped: str
    """``tunables`` (prompts and head) or ``all parameters``."""
    samples: int
    accuracy: float
    shipped_bytes: int
    """Array data delivered to all members."""
    request_bytes: dict[str, int]
    """`wire` of the request by link: ``up``, ``down``, ``d2d``."""
    delivery_s: float
    """Virtual seconds to deliver the stages."""
    latency_s: float
    """Virtual seconds from the request to the result."""
    samples_per_s: float
    """Throughput, ``samples / latency_s``."""
    flops: float
    """Of the request, all members together; so are the joules."""
    joules: float
    peak_node_bytes: int
    """Largest memory of a member."""
    wall_s: float
    """Real time of the request on this machine, all members in one process."""


def read_tunables(path: Path, run: RunConfig, num_classes: int) -> dict[str, Tensor]:
    """Read tunables from a safetensors file; ConfigError if it is not of this model's."""
    with _refused("--tunables", path, "not a safetensors file"):
        tensors = load_file(path)
    try:
        set_tunables(build_model(run.model, num_classes, run.seed), tensors)
    except ValueError as error:
        raise ConfigError("--tunables", str(path), str(error)) from error
    return tensors


def save_tunables(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tunables to a safetensors file; ConfigError if that cannot be."""
    with _refused("--save", path, "not writable"):
        save_file(dict(tensors), path)


@contextmanager
def _refused(option: str, path: Path, why: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(option, str(path), f"{why} ({reason})") from error


def train_then_serve(
    run: RunConfig,
    samples: int,
    tensors: Mapping[str, Tensor] | None = None,
    on_round: Callable[[int], None] = lambda number: None,
) -> tuple[list[Served], dict[str, Tensor]]:
    """Let the first cluster of a strategy serve a request for held-out samples twice.

    Its stages are delivered by tunables alone, then by all parameters. Without `tensors`, the
    tunables, the strategy trains first; `on_round` gets the number of each round, 0 before the
    first. Returns what was served, and the tunables that served.

    Raises
    ------
    ConfigError
        If the strategy has no `service`, as `strategies.hfsl.HFSL` has, or there are not so many
        samples.
    """
    strategy = build_strategy(run)
    if not hasattr(strategy, "service"):
        raise ConfigError("strategy", run.strategy.name, "accepted: one that serves, as hfsl does")
    if not 1 <= samples <= run.data.test_samples:
        raise ConfigError("--samples", samples, f"from 1 to {run.data.test_samples} held out")
    with local_grid(run) as grid:
        addresses = call_roll(grid, run.data.nodes)
        arrays = ArrayRecord(dict(tensors if tensors is not None else initial_tunables(run)))
        if tensors is None:
            arrays = strategy.start(
                metered(grid, run, addresses),
                arrays,
                num_rounds=run.strategy.rounds,
                evaluate_fn=lambda number, _: on_round(number),
            ).arrays
        meters = [(metered(grid, run, addresses), whole) for whole in (False, True)]
        served = [_serve(strategy.service(m, arrays, whole=w), m, samples) for m, w in meters]
    return served, tensors_of(arrays)


def _serve(service: Any, meter: MeteredGrid, samples: int) -> Served:
    service.deliver(TIMEOUT_S)
    before, delivery_s, joules = meter.totals(), meter.virtual_seconds, meter.joules
    started = time.perf_counter()
    answer = service.ask(samples, TIMEOUT_S)
    wall_s = time.perf_counter() - started
    latency_s, after = meter.virtual_seconds - delivery_s, meter.totals()
    return Served(
        shipped="all parameters" if service.whole else "tunables",
        samples=samples,
        accuracy=answer["accuracy"],
        shipped_bytes=before["payload"],
        request_bytes={link: after[link] - before[link] for link in ("up", "down", "d2d")},
        delivery_s=delivery_s,
        latency_s=latency_s,
        samples_per_s=samples / latency_s,
        flops=meter.flops,
        joules=meter.joules - joules,
        peak_node_bytes=meter.peak_node_bytes,
        wall_s=wall_s,
    )
