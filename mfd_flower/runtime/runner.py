"""One run: a strategy on a grid, watched and billed."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from joblib import cpu_count

from mfd_flower.accounting.targets import diverged
from mfd_flower.adversary.attackers import poisoners
from mfd_flower.config import RunConfig
from mfd_flower.handlers import StrategyClientApp
from mfd_flower.ledger import Chains
from mfd_flower.ledger.sync import heads
from mfd_flower.models.inputs import federation_of
from mfd_flower.network.worlds import new_world
from mfd_flower.node import initial_tunables
from mfd_flower.results import reason_of
from mfd_flower.run_checks import check_run
from mfd_flower.runtime.coded_grid import CodedGrid
from mfd_flower.runtime.curve import Curve, Measured, Models, OnPoint
from mfd_flower.runtime.faulty_grid import FaultyGrid
from mfd_flower.runtime.ledgers import admission_counts, entries_of, versions_of
from mfd_flower.runtime.local_grid import LocalGrid
from mfd_flower.runtime.mailbox import Mailbox
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.node_quality import node_quality
from mfd_flower.runtime.resuming import Resumable, Say
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.strategy_state import has_flowers_loop, node_metrics
from mfd_flower.strategy import build_strategy, find_strategy, links_of, source_of
from mfd_flower.wire_codec import shapes_of

OUTCOME = ("included", "missing", "sums_version", "contributions", "leakage", "drawn")
"""What only a strategy knows of a run: attributes that become keys of its record."""


class RunFailedError(RuntimeError):
    """A run ended without a trained model."""


def run_locally(
    run: RunConfig,
    on_point: OnPoint | None = None,
    workers: int | None = None,
    files: RunFiles | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Run on a `LocalGrid` of this process; see `run_on`."""
    with local_grid(run, workers, files.checkpoints if files else None) as grid:
        return run_on(grid, run, on_point, files, say)


def local_grid(
    run: RunConfig, workers: int | None = None, state_dir: Path | None = None
) -> LocalGrid:
    """Return a `LocalGrid` for a run, with a thread for each node that must run at once."""
    at_once = getattr(build_strategy(run), "concurrent_nodes", 1)
    threads = max(workers or cpu_count(), at_once)
    state_dir = state_dir and state_dir.resolve()
    return LocalGrid(StrategyClientApp(), run.data.nodes, run.flat(), threads, state_dir)


def metered(grid: Grid, run: RunConfig, addresses: Mapping[int, str]) -> MeteredGrid:
    """Return an engine with the run's faults, if it has any, and its bill around it."""
    strategy = find_strategy(run.strategy.name)
    links = links_of(strategy, run)
    if run.faults.total:
        # Nodes of a walk check for themselves what they send each other; all else Flower does.
        checked = links if getattr(strategy, "self_checked", False) else ()
        grid = FaultyGrid(grid, run.faults, run.seed, addresses, self_checked=checked)
    world = new_world(run.network, run.data.nodes, run.seed)
    return MeteredGrid(grid, links, world, addresses)


def run_on(
    grid: Grid,
    run: RunConfig,
    on_point: OnPoint | None = None,
    files: RunFiles | None = None,
    say: Say = lambda line: None,
    save: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run a strategy on any engine's grid, whose nodes hold the same settings.

    With `files` its models and checkpoints are kept; `say` gets a line if it goes on from one.
    Checkpoints are dropped when `save` has kept what is returned. Without it they stay: whoever
    keeps that drops them then, so that a stop in between costs no run.

    Returns
    -------
    dict
        One entry of ``results.json``'s ``runs``, without its place in a comparison. Of a strategy
        with a ledger also its ``versions``, and its lines as ``ledger``; with admission, how many
        versions were accepted and refused.

    Raises
    ------
    ConfigError
        If a setting does not fit the data or the strategy.
    NodesMissingError
        If the engine does not run the nodes, or not as many at once as the strategy needs.
    RunFailedError
        If no node returned a trained model, or a node's code raised an error and no fault and no
        threat was asked for: a method of which some nodes do not work is not that method.
    """
    strategy = build_strategy(run)
    check_run(run)
    at_once = getattr(strategy, "concurrent_nodes", 1)
    one_process = getattr(strategy, "one_process", False)
    addresses = call_roll(grid, run.data.nodes, at_once=at_once, one_process=one_process)
    resumable, done = None, 0
    if files and (files.checkpoint_every or (files.resume and files.own_checkpoints.is_dir())):
        grid = Mailbox(grid, addresses)
    meter = metered(grid, run, addresses)
    initial = initial_tunables(run)
    outermost = CodedGrid(meter, run.wire, shapes_of(initial)) if run.wire.coded else meter
    curve = Curve(run, meter, on_point)
    if files and isinstance(grid, Mailbox):
        resumable = Resumable(files, run, strategy, grid, outermost, meter, curve)
        done = resumable.begin(say)
    flowers = has_flowers_loop(strategy)
    by_nodes = node_metrics(strategy) if flowers else {}

    tolerant = bool(run.faults.total or run.threat.kind)

    def check_nodes(where: str) -> None:
        if meter.raised and not tolerant:
            raise RunFailedError(f"{where}: {meter.raised}")

    def evaluate(step: int, arrays: ArrayRecord | Models) -> MetricRecord | None:
        # Flower's loop begins anew behind a checkpoint, and with what was measured before it. Of
        # other loops no step is left out: a walk's go back where the holder of a model dies.
        step += done if flowers else 0
        check_nodes(f"step {step}")
        quality: dict[str, float] = {}
        if not (flowers and done) or step > done:
            models = {"": arrays} if isinstance(arrays, ArrayRecord) else arrays
            quality = curve.measure(step, models, by_nodes)
            if resumable:
                resumable.step_done()
        # Flower's strategies sample nodes from Python's own generator, right after this. Flower's
        # retries draw from it too: seeded once a run, a slow network would change the order.
        random.seed(f"{run.seed}/{step}")
        return MetricRecord({**quality})

    begun = curve.latest.models.get("") if curve.latest else None
    strategy.start(
        grid=outermost,
        initial_arrays=begun or ArrayRecord(dict(initial)),
        num_rounds=run.strategy.rounds - (done if flowers else 0),
        evaluate_fn=evaluate,
    )
    check_nodes("at the end")
    if meter.updates == 0:
        reason = meter.failures[-1] if meter.failures else "no training request was sent"
        raise RunFailedError(f"{run.strategy.name}: no node trained; last reason: {reason}")
    record = {
        "strategy_file": strategy_file(run.strategy.name),
        "nodes": run.data.nodes,
        "model": None,
        "models": None,
        "best": None,
        "tunables": sum(t.numel() for t in initial.values()),
        "settings": run.flat(),
        "notes": federation_of(run).notes,
        "points": curve.points,
        "diverged": diverged(curve.points, federation_of(run).num_classes),
        "visits": meter.visits,
        "sources": meter.sources,
        "sent_s": meter.sent_s,
        "begun_s": meter.begun_s,
        "wire_by_type": dict(meter.wire_by_type),
        "node_samples": samples_of_nodes(run),
        "node_bytes": meter.node_bytes,
        "node_flops": dict(meter.node_flops),
        "node_peak_bytes": dict(meter.node_peak_bytes),
        "node_joules": dict(meter.node_joules),
        "seconds_by": meter.known.took,
        "joules_by": {name: meter.joules_by[name] for name in ("compute", "radio", "sensing")},
        "spectrum_hz_s": meter.spectrum_hz_s,
        "model_transfers": dict(meter.model_transfers),
        "failures": [{**each, "reason": reason_of(each["reason"])} for each in curve.failures()],
    }
    record |= {name: getattr(strategy, name) for name in OUTCOME if hasattr(strategy, name)}
    if lines := getattr(strategy, "replica", ""):
        record["ledger"] = lines
        record["versions"] = versions = versions_of(entries_of(lines))
        if getattr(strategy, "admission", False):
            untaken = getattr(strategy, "not_taken", {})
            record["admission"] = admission_counts(versions, poisoners(run), untaken)
    assert curve.latest is not None
    own: Models = getattr(strategy, "own", {})
    record["node_quality"] = node_quality(run, {**curve.latest.models, **own})
    if files:
        record |= written_models(files, run, curve, record, own)
    if save:
        save(record)
        if resumable:
            resumable.end()
    return record


def written_models(
    files: RunFiles, run: RunConfig, curve: Curve, record: Mapping[str, Any], own: Models
) -> dict[str, Any]:
    """Write the final and the best models, and nodes' own; returns the paths, for the record."""
    made = {"strategy": run.strategy.name, "settings": run.flat()}
    if lines := record.get("ledger"):
        made["ledger_heads"] = heads(Chains(lines.splitlines()))
    assert curve.latest is not None
    final = files.write_models(run, "final", curve.latest, made)
    found: dict[str, Any] = {"model": final.get(""), "models": None if "" in final else final}
    if own:
        of_nodes = Measured(curve.latest.point, own)
        found["own_models"] = files.write_models(run, "own", of_nodes, made)
    if curve.best is not None:
        paths = files.write_models(run, "best", curve.best, made)
        told = {"step": curve.best.point["step"], "model": paths.get("")}
        found["best"] = {**told, "models": None if "" in paths else paths}
    return found


def samples_of_nodes(run: RunConfig) -> dict[str, int]:
    """Return how many samples each node trains on, by address."""
    return {f"n{node}": len(share) for node, share in enumerate(federation_of(run).shares)}


def strategy_file(name: str) -> dict[str, str]:
    """Return the path of a strategy's source file, as imports see it, and its SHA-256."""
    source = source_of(name).resolve()
    roots = [Path(folder).resolve() for folder in ("", *sys.path)]
    paths = [source.relative_to(root) for root in roots if source.is_relative_to(root)]
    path = min(paths, key=lambda path: len(path.parts), default=Path(source.name))
    return {"path": path.as_posix(), "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
