"""Ask a cluster: what split inference answers, how fast, and what delivering its stages costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from torch import Tensor

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.backbones import backbone_digest, load_backbone
from mfd_flower.models.inputs import federation_of, spec_of
from mfd_flower.models.model_file import TrainedModel
from mfd_flower.node import initial_tunables
from mfd_flower.records import tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid, metered
from mfd_flower.split.serving import ANSWERED, ASKED
from mfd_flower.strategy import build_strategy

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Served:
    """One request, from delivering the stages to the result at the asker."""

    shipped: str
    """``tunables`` (prompts and head) or ``all parameters``."""
    samples: int
    accuracy: float | None
    """None where the asker does not know what is right."""
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


def read_model(path: Path, run: RunConfig, classes: tuple[str, ...]) -> TrainedModel:
    """Return the model in a file; ConfigError unless its tunables are of a run's model."""
    model = TrainedModel.load(path)
    about, digest = model.about, backbone_digest(load_backbone(run.model, run.seed))
    for name, found, wanted in (
        ("settings of the model", about.model, run.model),
        ("classes", about.classes, classes),
        ("backbone's weights", about.backbone_digest, digest),
    ):
        if found != wanted:
            raise ConfigError("--model", str(path), f"its {name} are not those of the config")
    model.assembled()
    return model


def model_of(
    run: RunConfig, tensors: Mapping[str, Tensor], classes: tuple[str, ...]
) -> TrainedModel:
    """Return tunables that a run trained, as a model that can be saved."""
    made = {"strategy": run.strategy.name, "settings": run.flat()}
    return TrainedModel.of(tensors, run.model, classes, run.seed, made, spec_of(run))


def train_then_serve(
    run: RunConfig,
    samples: int,
    tensors: Mapping[str, Tensor] | None = None,
    on_round: Callable[[int], None] = lambda number: None,
    images: Tensor | None = None,
) -> tuple[list[Served], dict[str, Tensor], Tensor]:
    """Let the first cluster of a strategy serve a request twice.

    It is about `images` that the asker has, ``(n, channels, side, side)`` as the model expects
    them, else about held-out `samples`. Stages are delivered by tunables alone, then by all
    parameters. Without `tensors`, the tunables, the strategy trains first; `on_round` gets the
    number of each round, 0 before the first. Returns what was served, the tunables that served,
    and the logits ``(n, classes)`` that the asker got.

    Raises
    ------
    ConfigError
        If the strategy has no `service`, as `strategies.hfsl.HFSL` has, or there are not so many
        samples.
    """
    strategy = build_strategy(run)
    if not hasattr(strategy, "service"):
        raise ConfigError("strategy", run.strategy.name, "accepted: one that serves, as hfsl does")
    if images is not None:
        samples = len(images)
    elif not 1 <= samples <= (held_out := len(federation_of(run).test)):
        raise ConfigError("--samples", samples, f"from 1 to {held_out} held out")
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
        if images is not None:
            # Its user gives them to each node, whichever will ask: no message carries them.
            for context in grid.contexts.values():
                context.state[ASKED] = ArrayRecord({"images": images})
        meters = [(metered(grid, run, addresses), whole) for whole in (False, True)]
        served = [_serve(strategy.service(m, arrays, whole=w), m, samples) for m, w in meters]
        states = [context.state.array_records for context in grid.contexts.values()]
    (answer,) = (state[ANSWERED] for state in states if ANSWERED in state)
    return served, tensors_of(arrays), tensors_of(answer)["logits"]


def _serve(service: Any, meter: MeteredGrid, samples: int) -> Served:
    service.deliver(TIMEOUT_S)
    before, delivery_s, joules = meter.totals(), meter.virtual_seconds, meter.joules
    started = time.perf_counter()
    answer = service.ask(samples, TIMEOUT_S)
    wall_s = time.perf_counter() - started
    latency_s, after = meter.virtual_seconds - delivery_s, meter.totals()
    answered = int(answer["samples"])
    return Served(
        shipped="all parameters" if service.whole else "tunables",
        samples=answered,
        accuracy=answer.get("accuracy"),
        shipped_bytes=before["payload"],
        request_bytes={link: after[link] - before[link] for link in ("up", "down", "d2d")},
        delivery_s=delivery_s,
        latency_s=latency_s,
        samples_per_s=answered / latency_s,
        flops=meter.flops,
        joules=meter.joules - joules,
        peak_node_bytes=meter.peak_node_bytes,
        wall_s=wall_s,
    )
