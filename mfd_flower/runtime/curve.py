"""The curve of a run: quality and bill after each step, and the models that are worth keeping."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from mfd_flower.adversary.attackers import trigger_samples
from mfd_flower.config import RunConfig
from mfd_flower.models.residents import shard
from mfd_flower.node import evaluate_tunables
from mfd_flower.profiles import own_settings
from mfd_flower.records import joined, part_of, plain_record, plain_values, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid

Point = dict[str, Any]
OnPoint = Callable[[Point], None]
Models = Mapping[str, ArrayRecord]
"""By walker or node; of one common model the name is empty."""


@dataclass(frozen=True)
class Measured:
    """Models with the point at which they stood."""

    point: Point
    models: Models


class Curve:
    """Measures a run, which `meter` bills, step by step.

    `latest` and `best` are the models of the last step and of the best one by validation, the mean
    over what all nodes hold out: an instrument outside the bill, as the test set is. Of steps that
    are equally good the one with the lower validation loss is better, then the earlier.
    """

    def __init__(self, run: RunConfig, meter: MeteredGrid, on_point: OnPoint | None) -> None:
        self._run, self._meter, self._on_point = run, meter, on_point
        self._started = time.perf_counter()
        self._qualities: list[tuple[ArrayRecord, dict[str, float]]] = []
        self.points: list[Point] = []
        self.failed_at: list[int] = []
        """The step during which each failure happened."""
        self.latest: Measured | None = None
        self.best: Measured | None = None

    def measure(
        self, step: int, models: Models, by_nodes: Mapping[str, Any] = {}
    ) -> dict[str, float]:
        """Add a point for the models after a step; returns their mean quality.

        What nodes measured themselves, if they did, is added as ``by_nodes``.
        """
        # Of several walkers only one has moved since the last point.
        known = {id(model): quality for model, quality in self._qualities}
        found = [
            known.get(id(each)) or quality_of(settings_behind(self._run, name), each)
            for name, each in models.items()
        ]
        self._qualities = list(zip(models.values(), found, strict=True))
        quality = {name: sum(q[name] for q in found) / len(found) for name in found[0]}
        meter = self._meter
        self._note_failures(step)
        point = {
            "step": step,
            "updates": meter.updates,
            "visits": len(meter.visits),
            **quality,
            "bytes": meter.totals(),
            "virtual_seconds": meter.virtual_seconds,
            "joules": meter.joules,
            "flops": meter.flops,
            "peak_node_bytes": meter.peak_node_bytes,
            "busiest_node_bytes": meter.busiest_node_bytes,
            "wall_seconds": time.perf_counter() - self._started,
            **({"by_nodes": dict(by_nodes)} if by_nodes else {}),
        }
        self.points.append(point)
        self.latest = Measured(point, models)
        if "validation_accuracy" in point and (
            self.best is None or _rank(point) > _rank(self.best.point)
        ):
            self.best = self.latest
        if self._on_point:
            self._on_point(point)
        return quality

    def failures(self) -> list[dict[str, Any]]:
        """Return every failure of the run: node, step, reason."""
        self._note_failures(self.points[-1]["step"])
        meter = self._meter
        return [
            {"node": node, "step": step, "reason": reason}
            for node, step, reason in zip(meter.failed, self.failed_at, meter.failures, strict=True)
        ]

    def state_dict(self) -> RecordDict:
        """Return the latest and the best models; points and failures are in `lists`."""
        found = {"latest": self.latest, "best": self.best}
        measured = {name: each for name, each in found.items() if each is not None}
        points = plain_record({name: each.point for name, each in measured.items()})
        models = {name: RecordDict({**each.models}) for name, each in measured.items()}
        return joined({"points": RecordDict({"points": points}), "models": joined(models)})

    def load_state_dict(self, state: RecordDict, lists: Mapping[str, list[Any]]) -> None:
        """Go on behind the last of the points in `lists`."""
        points = plain_values(part_of(state, "points").config_records["points"])
        models = part_of(state, "models")
        found = {name: Measured(points[name], _models(models, name)) for name in points}
        self.latest, self.best = found.get("latest"), found.get("best")
        self.points, self.failed_at = lists["points"], lists["failed_at"]
        self._started -= self.points[-1]["wall_seconds"]

    def lists(self) -> dict[str, list[Any]]:
        """Return what only grows."""
        return {"points": self.points, "failed_at": self.failed_at}

    def _note_failures(self, step: int) -> None:
        self.failed_at.extend([step] * (len(self._meter.failures) - len(self.failed_at)))


def settings_behind(run: RunConfig, name: str) -> RunConfig:
    """Return the settings of a model by its name among `Models`: a node's own, or the run's."""
    number = name.removeprefix("n")
    return own_settings(run, int(number)) if run.node_profiles and number.isdecimal() else run


def quality_of(run: RunConfig, model: ArrayRecord) -> dict[str, float]:
    """Measure a model on the test set, on what nodes hold out, and a backdoor's success."""
    tensors = tensors_of(model)
    found = evaluate_tunables(run, tensors)
    quality = {name: getattr(found, name) for name in ("accuracy", "macro_accuracy", "loss")}
    if len(held_out := shard(run, "validation")):
        validated = evaluate_tunables(run, tensors, held_out)
        quality |= {"validation_accuracy": validated.accuracy, "validation_loss": validated.loss}
    if (triggered := trigger_samples(run)) is not None:
        quality["attack_success"] = evaluate_tunables(run, tensors, triggered).accuracy
    return quality


def _rank(point: Point) -> tuple[float, float]:
    loss = point["validation_loss"]
    return point["validation_accuracy"], -loss if loss == loss else float("-inf")


def _models(state: RecordDict, name: str) -> dict[str, ArrayRecord]:
    return dict(part_of(state, name).array_records)
