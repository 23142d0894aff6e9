"""What single nodes gave, get, and gave away: columns whose rows are nodes of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mfd_flower.accounting.contributions import GIVEN, contributions_of, gave
from mfd_flower.report.columns import Column, Row, decimals
from mfd_flower.services.incentives import payments

MOST_ROWS = 100
"""Nodes that a table of what each gives and gets shows; of more, those that contributed most."""

GAVE = (
    Column("node", "node", "", "Its address."),
    Column("samples", "samples", "", "That it added."),
    Column(
        "accuracy without it",
        lambda r: decimals(r.get("accuracy_without")),
        "",
        "On its own samples, of the head of all others.",
    ),
    Column(
        "with it",
        lambda r: decimals(r.get("accuracy_with")),
        "",
        "On the same samples, which this head has seen.",
    ),
    Column(
        "error without it",
        lambda r: f"{r['squared_error_without']:.4f}",
        "",
        "Mean squared error over everybody's samples of labels regressed on all others'.",
    ),
    Column(
        "error with it",
        lambda r: f"{r['squared_error_with']:.4f}",
        "",
        "The same, with its samples in the regression. The difference is what it gave to all.",
    ),
    Column(
        "Shapley value",
        lambda r: _with_error(r),
        "",
        "By how much it lowers that error, the mean over all orders in which nodes may come. It "
        "takes each node's own sums, which a star's server has and nobody in a walk.",
    ),
)
"""Of the trait `contributions`, a row is what one node measured; and of `ridge`."""


def _shown(name: str, digits: str) -> Callable[[Row], str | None]:
    return lambda row: None if row[name] is None else format(row[name], digits)


GIVES_AND_GETS = (
    Column("node", "node", "", "Its address."),
    Column("samples", "samples", "", "That it trains on."),
    Column("bytes", "bytes", "bytes", "Wire that it sent and received."),
    Column("joules", _shown("joules", ".3g"), "", "Of its computing, sending and sensing."),
    Column("FLOPs", _shown("flops", ".3g"), "", "Of its computing."),
    Column(
        "contribution",
        _shown("contribution", ".4g"),
        "",
        "By how much it made the model better, measured as the title says.",
    ),
    Column(
        "payment",
        _shown("payment", ".3f"),
        "",
        "Of a profit of 1, shared in proportion to contributions above 0; costs are left out.",
    ),
)
"""Of any run; a row is one of `gives_and_gets`."""


class GivesAndGets(NamedTuple):
    """What a table shows, and what it is of."""

    measure: str
    rows: list[dict[str, Any]]
    nodes: int
    """Of the run; more than rows where there are too many."""


def gives_and_gets(run: Mapping[str, Any]) -> GivesAndGets | None:
    """Return what each node of a run gave, and would get of a profit of 1.

    None if its record tells nothing of single nodes.
    """
    found = contributions_of(run)
    if not found and not any(f"node_{name}" in run for name in GIVEN):
        return None
    rows, by_node = gave(run), found.by_node if found else {}
    earned = any(each > 0 for each in by_node.values())
    paid = payments(by_node, 1.0) if earned else dict.fromkeys(by_node, 0.0)
    rows = [{**row, "payment": paid.get(row["node"])} for row in rows]
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda row: -(row["contribution"] or 0.0))[:MOST_ROWS]
    return GivesAndGets(found.measure if found else "not measured", rows, run["nodes"])


def _with_error(row: Row) -> str | None:
    if "shapley" not in row:
        return None
    error = f" ± {row['shapley_error']:.4f}" if "shapley_error" in row else ""
    return f"{row['shapley']:.4f}{error}"


GAVE_AWAY = (
    Column("node", "node", "", "Whose generator it is."),
    Column(
        "distance",
        lambda r: decimals(r["distance_ratio"]),
        "",
        "Of a drawn image to the nearest it was trained on, over that to the nearest other "
        "one, the median: 1 is nothing, 0 a copy.",
    ),
    Column(
        "membership",
        lambda r: decimals(r["membership_auc"]),
        "",
        "How well distances tell images it was trained on from others, area under the curve: 0.5 "
        "is chance.",
    ),
    Column(
        "epsilon",
        lambda r: "-" if r.get("epsilon") is None else f"{r['epsilon']:.3g}",
        "",
        "What the noise in its training promises of one image, at the delta of the settings, if "
        "nobody knows the seed that drew it; - without noise. How many images of "
        "which class a node has is told exactly.",
    ),
)
"""Of the strategy `generator`."""
