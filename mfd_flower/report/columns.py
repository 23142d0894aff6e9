"""Every column of every table of a report: to add one, write it here and nowhere else.

A column takes its value from a row of the summary (`mfd_flower.accounting.summary`); its unit says
how the value is written. The terminal, Markdown, the page and summary.csv all show `TABLES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mfd_flower.accounting.targets import SHARES

Row = Mapping[str, Any]


def megabytes(size_bytes: float | None) -> str:
    """Write a number of bytes so that a person can compare it."""
    if size_bytes is None:
        return "never"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.3g} {unit}"
    return f"{size_bytes:.0f} B"


def fraction(ratio: float) -> str:
    """Write a ratio as 1/x where that reads better."""
    if ratio == 0:
        return "0"
    return f"1/{1 / ratio:.3g}" if ratio < 0.95 else f"{ratio:.3g}x"


def mean_and_spread(found: Mapping[str, float]) -> str:
    """Write a mean over seeds and its standard deviation."""
    return f"{found['mean']:.3f} ± {found['std']:.3f}"


TEXTS: dict[str, Callable[[Any], str]] = {
    "": str,
    "bytes": megabytes,
    "share": lambda share: f"{100 * share:.2g} %",
    "ratio": fraction,
    "mean": mean_and_spread,
    "s": lambda seconds: f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.3g} s",
    "J": lambda joules: f"{joules:.1f} J",
    "FLOP": lambda flops: f"{flops / 1e9:.0f} GFLOP",
}
"""Unit to how a value of it is written."""


@dataclass(frozen=True)
class Column:
    """One column."""

    heading: str
    value: Callable[[Row], Any]
    """Takes a row's value; None is what is not known, or does not happen."""
    unit: str
    """A key of `TEXTS`."""
    how: str
    """How it was counted, in one sentence; the page shows it where one points at the heading."""
    none: str = "-"

    def cell(self, row: Row) -> str:
        """Write the value for a person."""
        value = self.value(row)
        return self.none if value is None else TEXTS[self.unit](value)


@dataclass(frozen=True)
class Section:
    """One table of a scenario."""

    title: str
    columns: tuple[Column, ...]
    shows: Callable[[Row], bool] = lambda row: True
    """Which rows of the summary it has."""
    brief: bool = False
    """Whether the terminal shows it too."""


STRATEGY = Column("strategy", lambda r: r["strategy"], "", "The entry's label in the config.")
PAYLOAD = Column("payload", lambda r: r["payload"], "", "What is tuned and therefore sent.")
FINAL = Column(
    "final accuracy",
    lambda r: r["final"],
    "mean",
    "On the held-out test set at the last point, mean and standard deviation over seeds.",
)
MACRO = Column(
    "macro accuracy",
    lambda r: r["macro"],
    "mean",
    "Mean recall over the classes of the test set at the last point.",
)
BEST = Column(
    "best accuracy", lambda r: r["best"], "mean", "At the best point of each seed, then as above."
)
TOUR = Column(
    "last tour",
    lambda r: r["tour"],
    "mean",
    "Accuracy over the points of the last N local updates, N being the number of nodes.",
)
WIRE_TO_TARGET = Column(
    "wire to target",
    lambda r: r["target_wire"],
    "bytes",
    "Bytes as serialised until the mean curve over seeds first reaches the target.",
    none="never",
)
PAYLOAD_TO_TARGET = Column(
    "payload to target",
    lambda r: r["target_payload"],
    "bytes",
    "The array data in them: no headers, adverts, ledger entries or acknowledgements.",
    none="never",
)
RATIO = Column("of FedAvg's", lambda r: r["ratio"], "ratio", "Wire to target over the yardstick's.")
SEEDS = Column(
    "seeds",
    lambda r: f"{sum(x is not None for x in r['seeds_target_wire'])}/{r['seeds']}",
    "",
    "Seeds whose own curve reaches the target.",
)
CONTROL = Column(
    "control bytes",
    lambda r: r["control_bytes"],
    "bytes",
    "Wire of messages that neither train nor evaluate, mean over seeds.",
)
CONTROL_SHARE = Column("of wire", lambda r: r["control_share"], "share", "Control bytes over wire.")
SECONDS = Column(
    "virtual time",
    lambda r: r["virtual_seconds"],
    "s",
    "Follows from counted bytes and FLOPs and the rates in the settings; mean over seeds.",
)


def _reaches(share: float) -> Column:
    def first(row: Row) -> float | None:
        return next(t["first_bytes"] for t in row["targets"] if t["share"] == share)

    how = f"Wire until the mean curve first reaches {share:.0%} of the best accuracy of any row."
    return Column(f"{share:.0%}", first, "bytes", how, none="never")


TABLES = (
    Section(
        "At the same payload",
        (STRATEGY, FINAL, TOUR, WIRE_TO_TARGET, RATIO, PAYLOAD_TO_TARGET, SEEDS),
        shows=lambda row: bool(row["same_payload"]),
        brief=True,
    ),
    Section(
        "What the payload saves on top",
        (
            PAYLOAD,
            STRATEGY,
            Column("one transfer", lambda r: 4 * r["tunables"], "bytes", "Tunables in fp32."),
            TOUR,
            WIRE_TO_TARGET,
            RATIO,
        ),
        shows=lambda row: bool(row["total_payload"]),
        brief=True,
    ),
    Section(
        "Wire to shares of the best accuracy",
        (STRATEGY, BEST, MACRO, *(_reaches(share) for share in SHARES)),
    ),
    Section(
        "How the model travelled",
        (
            STRATEGY,
            Column(
                "visits entropy",
                lambda r: r["visits_entropy"],
                "mean",
                "1 where all nodes are visited equally often, 0 where always the same one.",
            ),
            CONTROL,
            CONTROL_SHARE,
            SECONDS,
        ),
        shows=lambda row: bool(row["control_bytes"]),
    ),
    Section(
        "Costs of the whole run",
        (
            STRATEGY,
            Column("wire sent", lambda r: r["total_wire"], "bytes", "All messages as serialised."),
            Column("payload sent", lambda r: r["total_payload"], "bytes", "Array data in them."),
            CONTROL_SHARE,
            Column(
                "busiest node",
                lambda r: r["busiest_node_bytes"],
                "bytes",
                "Wire that the node with most of it sent and received, largest over seeds.",
            ),
            Column(
                "relayed by Flower's star",
                lambda r: r["total_relay"],
                "bytes",
                "All that passed the server, because Flower has no other way between nodes.",
            ),
            SECONDS,
            Column("energy", lambda r: r["joules"], "J", "By the rates in the settings."),
            Column("compute", lambda r: r["flops"], "FLOP", "Of all local fits together."),
            Column(
                "peak memory of a node",
                lambda r: r["peak_node_bytes"],
                "bytes",
                "Weights, gradients, optimiser state and saved tensors of one step.",
            ),
            Column("failed replies", lambda r: r["failures"], "", "Error replies, all seeds."),
        ),
    ),
)

SERVED = (
    Column("delivered", lambda r: r["shipped"], "", "What the members got beforehand."),
    Column("bytes", lambda r: r["shipped_bytes"], "bytes", "Array data of it, all members."),
    Column("in", lambda r: r["delivery_s"], "s", "Virtual time until all have it."),
    Column("accuracy", lambda r: f"{r['accuracy']:.3f}", "", "On the samples of the request."),
    Column("latency", lambda r: r["latency_s"], "s", "Virtual, from the request to the result."),
    Column("samples/s", lambda r: f"{r['samples_per_s']:.3g}", "", "Samples over latency."),
    Column("links", lambda r: sum(r["request_bytes"].values()), "bytes", "Wire of the request."),
    Column("peak a node", lambda r: r["peak_node_bytes"], "bytes", "Largest memory of a member."),
)
"""Of `mfd infer`; a row is a `mfd_flower.runtime.inference.Served`."""
