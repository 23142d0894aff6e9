"""Every column of every table of a report: to add one, write it here and nowhere else.

The terminal, Markdown, the page and summary.csv take `COLUMNS`; a row is one of the summary
(`mfd_flower.accounting.summary`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mfd_flower.accounting.summary import SHARES

Row = Mapping[str, Any]


def megabytes(size_bytes: float) -> str:
    """Write a number of bytes so that a person can compare it."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.3g} {unit}"
    return f"{size_bytes:.0f} B"


def fraction(ratio: float) -> str:
    """Write a ratio as 1/x where that reads better."""
    return f"1/{1 / ratio:.3g}" if 0 < ratio < 0.95 else f"{ratio:.3g}x"


TEXTS: dict[str, Callable[[Any], str]] = {
    "": str,
    "bytes": megabytes,
    "share": lambda share: f"{100 * share:.2g} %",
    "ratio": fraction,
    "mean": lambda found: f"{found['mean']:.3f} ± {found['std']:.3f}",
    "s": lambda seconds: f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.3g} s",
    "J": lambda joules: f"{joules:.1f} J",
    "FLOP": lambda flops: f"{flops / 1e9:.0f} GFLOP",
}
"""Unit to how a value of it is written; a "mean" is one over seeds, with standard deviation."""


@dataclass(frozen=True)
class Table:
    """One table of a scenario."""

    title: str
    shows: str
    """Key of a row that is true for those it has."""
    brief: bool = False
    """Whether the terminal shows it too."""


SAME = Table("At the same payload", "same_payload", brief=True)
PAYLOAD = Table("What the payload saves on top", "total_payload", brief=True)
TARGETS = Table("Wire to shares of the best accuracy", "strategy")
TRAVEL = Table("How the model travelled", "control_bytes")
COSTS = Table("Costs of the whole run", "strategy")
TABLES = (SAME, PAYLOAD, TARGETS, TRAVEL, COSTS)


@dataclass(frozen=True)
class Column:
    """One column."""

    heading: str
    value: str | Callable[[Row], Any]
    """Key of a row, or what makes a value of it; None is what is not known or never happens."""
    unit: str
    """A key of `TEXTS`."""
    how: str
    """How it was counted, in one sentence; the page shows it where one points at the heading."""
    tables: tuple[Table, ...] = ()
    none: str = "-"

    def of(self, row: Row) -> Any:
        """Return the value in a row."""
        return row[self.value] if isinstance(self.value, str) else self.value(row)

    def cell(self, row: Row) -> str:
        """Write the value for a person."""
        value = self.of(row)
        return self.none if value is None else TEXTS[self.unit](value)


def _reaches(share: float) -> Column:
    def first(row: Row) -> float | None:
        return row["targets"][SHARES.index(share)]["first_bytes"]

    how = f"Wire until the mean curve first reaches {share:.0%} of the best accuracy of any row."
    return Column(f"{share:.0%}", first, "bytes", how, (TARGETS,), "never")


def _seeds(row: Row) -> str:
    return f"{sum(size is not None for size in row['seeds_target_wire'])}/{row['seeds']}"


RATES = "Follows from counted bytes and FLOPs and the rates in the settings."
COLUMNS = (
    Column("payload", "payload", "", "What is tuned and therefore sent.", (PAYLOAD,)),
    Column("strategy", "strategy", "", "The entry's label in the config.", TABLES),
    Column("one transfer", lambda r: 4 * r["tunables"], "bytes", "Tunables in fp32.", (PAYLOAD,)),
    Column("final accuracy", "final", "mean", "On the test set at the last point.", (SAME,)),
    Column("best accuracy", "best", "mean", "On the test set at the best point.", (TARGETS,)),
    Column("macro accuracy", "macro", "mean", "Mean recall of a class at the end.", (TARGETS,)),
    Column("last tour", "tour", "mean", "Over the last N local updates, N nodes.", (SAME, PAYLOAD)),
    Column(
        *("wire to target", "target_wire", "bytes"),
        "Bytes as serialised until the mean curve over seeds first reaches the target.",
        (SAME, PAYLOAD),
        "never",
    ),
    Column("of FedAvg's", "ratio", "ratio", "Over the yardstick's wire.", (SAME, PAYLOAD)),
    Column(
        *("payload to target", "target_payload", "bytes"),
        "The array data in the wire to target.",
        (SAME,),
        "never",
    ),
    Column("seeds", _seeds, "", "Seeds whose own curve reaches the target.", (SAME,)),
    *map(_reaches, SHARES),
    Column(
        *("visits entropy", "visits_entropy", "mean"),
        "1 where all nodes are visited equally often, 0 where it is always the same one.",
        (TRAVEL,),
    ),
    Column(
        *("control bytes", "control_bytes", "bytes"),
        "Wire of messages that neither train nor evaluate.",
        (TRAVEL,),
    ),
    Column("wire sent", "total_wire", "bytes", "All messages as serialised.", (COSTS,)),
    Column("payload sent", "total_payload", "bytes", "The array data in them.", (COSTS,)),
    Column("of wire", "control_share", "share", "The share of control bytes.", (TRAVEL, COSTS)),
    Column(
        *("busiest node", "busiest_node_bytes", "bytes"),
        "Wire that the node with most of it sent and received.",
        (COSTS,),
    ),
    Column(
        *("relayed by Flower's star", "total_relay", "bytes"),
        "All that passed the server, because Flower has no other way between nodes.",
        (COSTS,),
    ),
    Column("virtual time", "virtual_seconds", "s", RATES, (TRAVEL, COSTS)),
    Column("energy", "joules", "J", RATES, (COSTS,)),
    Column("compute", "flops", "FLOP", "Floating point operations of all nodes.", (COSTS,)),
    Column(
        *("peak memory of a node", "peak_node_bytes", "bytes"),
        "Weights, gradients, optimiser state and saved tensors of one step.",
        (COSTS,),
    ),
    Column("failed replies", "failures", "", "Error replies of all seeds.", (COSTS,)),
)

SERVED = (
    Column("delivered", "shipped", "", "What the members got beforehand."),
    Column("bytes", "shipped_bytes", "bytes", "Array data of it, all members."),
    Column("in", "delivery_s", "s", "Virtual time until all have it."),
    Column("accuracy", lambda r: _accuracy(r), "", "On the samples of the request, if known."),
    Column("latency", "latency_s", "s", "Virtual, from the request to the result."),
    Column("samples/s", lambda r: f"{r['samples_per_s']:.3g}", "", "Samples over latency."),
    Column("links", lambda r: sum(r["request_bytes"].values()), "bytes", "Wire of the request."),
    Column("peak a node", "peak_node_bytes", "bytes", "Largest memory of a member."),
)
"""Of `mfd infer`; a row is a `mfd_flower.split.inference.Served`."""
PREDICTED = (
    Column("picture", "picture", "", "Its file."),
    Column("class", lambda r: r.get("class", "not readable"), "", "The most probable one."),
    Column("probability", lambda r: _percent(r.get("probability")), "", "Of that class."),
    Column("then", lambda r: _others(r.get("top", [])), "", "Other classes that were asked for."),
)
"""Of `mfd predict`; a row is a `mfd_flower.models.predict.Prediction` in JSON."""


def _accuracy(served: Row) -> str:
    return "-" if served["accuracy"] is None else f"{served['accuracy']:.3f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _others(top: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{each['class']} {each['probability']:.1%}" for each in top[1:])
