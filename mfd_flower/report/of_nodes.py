"""What single nodes gave, and gave away: columns whose rows are nodes of one run."""

from __future__ import annotations

from mfd_flower.report.columns import Column, decimals

GAVE = (
    Column("node", "node", "", "Its address."),
    Column("samples", "samples", "", "That it added."),
    Column(
        "accuracy without it",
        lambda r: decimals(r["accuracy_without"]),
        "",
        "On its own samples, of the head of all others.",
    ),
    Column(
        "with it",
        lambda r: decimals(r["accuracy_with"]),
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
)
"""Of the trait `contributions`; a row is what one node measured."""

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
        "What the noise in its training promises of one image, at the delta of the settings; - "
        "without noise. How many images of which class a node has is told exactly.",
    ),
)
"""Of the strategy `generator`."""
