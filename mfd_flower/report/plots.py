"""Figures as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from mfd_flower.accounting.summary import mean_curve
from mfd_flower.accounting.targets import by_metric
from mfd_flower.files import write_bytes
from mfd_flower.report.tables import metric_name
from mfd_flower.results import Results

Run = Mapping[str, Any]
BESIDE = ("axes fraction", "data")
MOST_LEGEND_LINES = 40


def plain(text: str) -> str:
    """Return a text as it is to be shown: between dollar signs a formula would be read."""
    return text.replace("$", r"\$")


def drawn(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as PNG and SVG; the same figure gives the same bytes."""
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mfd", "svg.fonttype": "none"}):
        figure.savefig(png, format="png", dpi=120, bbox_inches="tight")
        figure.savefig(svg, format="svg", bbox_inches="tight", metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG."""
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    for path, content in zip((png, svg), drawn(figure), strict=True):
        write_bytes(path, content)
    return png, svg


def draw_plots(results: Results) -> dict[str, dict[str, tuple[bytes, bytes]]]:
    """Draw all figures of a comparison; scenario to PNG and SVG of each, by the files' stem."""
    found = {}
    for place, (name, scenario) in enumerate(results.summary.items()):
        here = [run for run in results.runs if run["scenario"] == name]
        runs = [by_metric(run, scenario["metric"]) for run in here]
        figures = (plot_accuracy(runs, scenario), plot_bytes(scenario), plot_visits(runs))
        kinds = zip(("accuracy", "bytes", "visits"), figures, strict=True)
        found[name] = {f"{kind}-{place}": drawn(figure) for kind, figure in kinds}
    return found


def plot_accuracy(runs: Sequence[Run], scenario: Mapping[str, Any]) -> Figure:
    """Plot accuracy against megabytes sent, log x: mean over seeds, band of one deviation."""
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    for strategy in dict.fromkeys(run["strategy"] for run in runs):
        same = [run["points"] for run in runs if run["strategy"] == strategy]
        curve = mean_curve(same)
        accuracy = np.array([[p["accuracy"] for p in points[: len(curve)]] for points in same])
        megabytes = np.array([p["bytes"]["wire"] for p in curve]) / 1e6
        sent = megabytes > 0
        if not sent.any():
            place, words = (0.01, accuracy[:, -1].mean()), f"{plain(strategy)} (nothing sent)"
            axes.axhline(place[1], ls=":", lw=1, color="grey")
            axes.annotate(words, place, xycoords=BESIDE, fontsize=7, va="bottom")
            continue
        mean, std = accuracy.mean(0)[sent], accuracy.std(0)[sent]
        (line,) = axes.plot(megabytes[sent], mean, label=plain(strategy), lw=1.4)
        band = {"alpha": 0.15, "color": line.get_color()}
        axes.fill_between(megabytes[sent], mean - std, mean + std, **band)
    if scenario["target"]:
        axes.axhline(scenario["target"], ls="--", lw=1, color="black", label="target")
    axes.set_xscale("log")
    axes.set_xlabel("sent so far, as serialised (MB)")
    axes.set_ylabel(f"test {metric_name(scenario['metric'])}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def plot_bytes(scenario: Mapping[str, Any]) -> Figure:
    """Plot the bytes by which each strategy reaches and keeps the target."""
    rows = [row for row in scenario["rows"] if row["total_wire"]]
    figure = Figure(figsize=(8, 0.6 + 0.42 * max(len(rows), 1)))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        if row["target"]["kept_bytes"]:
            size = row["target"]["kept_bytes"] / 1e6
            axes.barh(place, size, color="tab:blue", height=0.6)
        else:
            axes.annotate("never reached", (0.02, place), xycoords=BESIDE, va="center")
    axes.set_yticks(range(len(rows)), [plain(row["strategy"]) for row in rows], fontsize=8)
    axes.invert_yaxis()
    if any(row["target"]["kept_bytes"] for row in rows):
        axes.set_xscale("log")
    axes.set_xlabel("sent until the target is reached and kept, as serialised (MB)")
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
        ax.set_title(plain(name), fontsize=7, loc="left", pad=2)
        ax.set_ylabel("node", fontsize=7)
        ax.tick_params(labelsize=6)
    axes[-1].set_xlabel("local update")
    figure.tight_layout()
    return figure


def plot_partition(
    classes: Sequence[str], holders: Sequence[str], counts: Sequence[Sequence[int]]
) -> Figure:
    """Plot samples by holder and class as stacked bars."""
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    classes, holders = (list(map(plain, names)) for names in (classes, holders))
    left, colours = np.zeros(len(holders)), matplotlib.colormaps["tab20"]
    for index, (name, part) in enumerate(zip(classes, np.transpose(counts), strict=True)):
        axes.barh(range(len(holders)), part, left=left, label=name, color=colours(index % 20))
        left += part
    axes.set_yticks(range(len(holders)), holders)
    axes.invert_yaxis()
    axes.set_xlabel("samples")
    if len(classes) <= MOST_LEGEND_LINES:
        axes.legend(fontsize=7, ncols=2)
    return figure
