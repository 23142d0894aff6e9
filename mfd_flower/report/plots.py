"""Figures as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mfd_flower.accounting.targets import mean_curve

Run = Mapping[str, Any]


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    with matplotlib.rc_context({"svg.hashsalt": "mfd", "svg.fonttype": "none"}):
        figure.savefig(files[0], dpi=120, bbox_inches="tight")
        figure.savefig(files[1], bbox_inches="tight", metadata={"Date": None})
    return files


def write_plots(folder: Path, results: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Draw all figures of a comparison; figure name to its files, one set a scenario."""
    found = {}
    for place, (name, summary) in enumerate(results["summary"].items()):
        runs = [run for run in results["runs"] if run["scenario"] == name]
        for kind, figure in (
            ("accuracy", plot_accuracy(runs, summary)),
            ("bytes", plot_bytes(summary)),
            ("visits", plot_visits(runs)),
        ):
            found[f"{name}: {kind}"] = save(figure, folder / f"{kind}-{place}")
    return found


def plot_accuracy(runs: Sequence[Run], summary: Mapping[str, Any]) -> Figure:
    """Plot accuracy against payload megabytes, log x: mean over seeds, band of one deviation."""
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    for strategy in dict.fromkeys(run["strategy"] for run in runs):
        same = [run["points"] for run in runs if run["strategy"] == strategy]
        curve = mean_curve(same)
        length = len(curve)
        accuracy = np.array([[p["accuracy"] for p in points[:length]] for points in same])
        megabytes = np.array([p["bytes"]["payload"] for p in curve]) / 1e6
        sent = megabytes > 0
        if not sent.any():
            axes.axhline(accuracy[:, -1].mean(), ls=":", lw=1, color="grey")
            axes.annotate(
                f"{strategy} (nothing sent)",
                (0.01, accuracy[:, -1].mean()),
                xycoords=("axes fraction", "data"),
                fontsize=7,
                va="bottom",
            )
            continue
        mean, std = accuracy.mean(0)[sent], accuracy.std(0)[sent]
        (line,) = axes.plot(megabytes[sent], mean, label=strategy, lw=1.4)
        axes.fill_between(
            megabytes[sent], mean - std, mean + std, alpha=0.15, color=line.get_color()
        )
    if summary["target"] is not None:
        axes.axhline(summary["target"], ls="--", lw=1, color="black", label="target")
    axes.set_xscale("log")
    axes.set_xlabel("payload sent so far (MB)")
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def plot_bytes(summary: Mapping[str, Any]) -> Figure:
    """Plot the bytes each strategy needs to reach the target and keep it, and to touch it first."""
    rows = [row for row in summary["rows"] if row["total_payload"]]
    figure = Figure(figsize=(8, 0.6 + 0.42 * max(len(rows), 1)))
    axes: Axes = figure.subplots()
    for place, row in enumerate(rows):
        kept, first = row.get("sustained_bytes"), row.get("first_bytes")
        if kept:
            axes.barh(place, kept / 1e6, color="tab:blue", height=0.6)
        else:
            axes.annotate(
                "never kept", (0.02, place), xycoords=("axes fraction", "data"), va="center"
            )
        if first:
            axes.plot(first / 1e6, place, "|", color="black", ms=14)
    axes.set_yticks(range(len(rows)), [row["strategy"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    if any(row.get("sustained_bytes") for row in rows):
        axes.set_xscale("log")
    axes.set_xlabel("payload to target (MB): bar sustained, tick first reach")
    axes.grid(alpha=0.3, axis="x")
    return figure


def plot_visits(runs: Sequence[Run]) -> Figure:
    """Plot which node trained at which visit, for each strategy's first seed."""
    firsts = {run["strategy"]: run for run in reversed(runs)}
    shown = {name: run for name, run in firsts.items() if run["visits"]}
    figure = Figure(figsize=(8, 1.1 * max(len(shown), 1) + 0.6))
    axes = figure.subplots(max(len(shown), 1), squeeze=False, sharex=True)[:, 0]
    for ax, (name, run) in zip(axes, reversed(shown.items()), strict=False):
        nodes = [int(address.removeprefix("n")) for address in run["visits"]]
        ax.plot(range(1, len(nodes) + 1), nodes, ".-", lw=0.4, ms=3)
        ax.set_title(name, fontsize=7, loc="left", pad=2)
        ax.set_ylabel("node", fontsize=7)
        ax.tick_params(labelsize=6)
    axes[-1].set_xlabel("local update")
    figure.tight_layout()
    return figure


def plot_partition(
    folder: Path, classes: Sequence[str], counts: Sequence[Sequence[int]]
) -> list[Path]:
    """Plot samples by node and class as stacked bars."""
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    table = np.array(counts)
    left = np.zeros(len(table))
    colours = matplotlib.colormaps["tab20"]
    for index, name in enumerate(classes):
        axes.barh(
            range(len(table)), table[:, index], left=left, label=name, color=colours(index % 20)
        )
        left += table[:, index]
    axes.set_yticks(range(len(table)), [f"n{node}" for node in range(len(table))])
    axes.invert_yaxis()
    axes.set_xlabel("samples")
    axes.legend(fontsize=7, ncols=2)
    return save(figure, folder / "partition")
