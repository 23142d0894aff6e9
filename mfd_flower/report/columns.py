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


def fraction(ratio: float | None) -> str:
    """Write a ratio as 1/x where that reads better; None is one without end.

    0 is one to what never gets there.
    """
    if ratio is None:
        return "never"
    if ratio == 0:
        return "alone"
    return f"1/{1 / ratio:.3g}" if 0 < ratio < 0.95 else f"{ratio:.3g}x"


def _with_range(ratio: Mapping[str, float | None]) -> str:
    median, low, high = (fraction(ratio[name]) for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


TEXTS: dict[str, Callable[[Any], str]] = {
    "": str,
    "bytes": megabytes,
    "share": lambda share: "100 %" if share > 0.995 else f"{100 * share:.2g} %",
    "ratio": _with_range,
    "mean": lambda found: f"{found['mean']:.3f} ± {found['std']:.3f}",
    "s": lambda seconds: f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.3g} s",
    "Hz s": lambda hertz: f"{hertz / 1e6:.3g} MHz s",
    "J": lambda joules: f"{joules:.1f} J",
    "FLOP": lambda flops: f"{flops / 1e9:.0f} GFLOP",
}
"""Unit to how a value of it is written.

A "mean" is one over seeds, with standard deviation, a "ratio" a median with the least and the most.
"""


@dataclass(frozen=True)
class Table:
    """One table of a scenario."""

    title: str
    shows: str
    """Key of a row that is true for those it has."""
    brief: bool = False
    """Whether the terminal shows it too."""
    sparse: bool = False
    """Whether columns are left out in which nothing stands."""


ANSWER = Table("Wire to the target", "strategy", brief=True)
TARGETS = Table("Wire to shares of the best accuracy", "strategy")
READINGS = Table("Three readings of 99 % of the best accuracy", "strategy")
TRAVEL = Table("How the model travelled", "control_bytes")
COSTS = Table("Costs of the whole run", "strategy")
TIME = Table("Latency and energy, by what took them", "seconds_compute", sparse=True)
LINKS = Table("Links, spectrum and memory", "strategy", sparse=True)
TABLES = (ANSWER, TARGETS, READINGS, TRAVEL, COSTS, TIME, LINKS)


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


def _keeps(share: float) -> Column:
    def kept(row: Row) -> float | None:
        return row["targets"][SHARES.index(share)]["kept_bytes"]

    how = f"Wire until {share:.0%} of the best accuracy of any row is reached and kept."
    return Column(f"{share:.0%}", kept, "bytes", how, (TARGETS,), "never")


def _of_target(name: str) -> Callable[[Row], Any]:
    return lambda row: row["target"][name]


def _took(heading: str, kind: str, how: str) -> Column:
    return Column(heading, f"seconds_{kind}", "s", f"{how}{CHAIN}", (TIME,))


CHAIN = ": of the chain of things that the end of the run waited for."
RATES = "Follows from counted bytes and FLOPs and the rates in the settings."
COLUMNS = (
    Column("strategy", "strategy", "", "The entry's label in the config.", TABLES),
    Column("payload", "payload", "", "What is tuned and therefore sent.", (ANSWER,)),
    Column("final accuracy", "final", "mean", "On the test set at the last point.", (ANSWER,)),
    Column(
        *("wire to target", _of_target("kept_bytes"), "bytes"),
        "Bytes as serialised until the target is reached and then kept for one update of every"
        " node: median of the seeds.",
        (ANSWER,),
        "never",
    ),
    Column(
        *("of the yardstick's", "ratio", "ratio"),
        "Wire to target over that of the cheapest baseline, seed by seed: median, least and most.",
        (ANSWER,),
    ),
    Column(
        *("at the same payload", "alike_ratio", "ratio"),
        "The same over the cheapest baseline that sends the same payload.",
        (ANSWER,),
    ),
    Column(
        *("payload to target", _of_target("kept_payload_bytes"), "bytes"),
        "The array data in the wire to target.",
        (ANSWER,),
        "never",
    ),
    Column(
        *("busiest node", _of_target("kept_busiest_bytes"), "bytes"),
        "Wire of the node that sent and received most until then.",
        (ANSWER,),
    ),
    Column(
        *("seeds", lambda r: f"{r['target']['seeds']}/{r['seeds']}", ""),
        "Seeds that reach and keep the target.",
        (ANSWER,),
    ),
    Column("best accuracy", "best", "mean", "On the test set at the best point.", (TARGETS,)),
    Column("macro accuracy", "macro", "mean", "Mean recall of a class at the end.", (TARGETS,)),
    *map(_keeps, SHARES),
    Column(
        *("kept", "kept_bytes", "bytes"),
        "Reached, and then kept for one update of every node.",
        (READINGS,),
        "never",
    ),
    Column("first reach", "first_bytes", "bytes", "Reached once.", (READINGS,), "never"),
    Column(
        *("trailing", "trailing_bytes", "bytes"),
        "End of the first updates, as many as nodes, that are there on the mean.",
        (READINGS,),
        "never",
    ),
    Column("last tour", "tour", "mean", "Over the last N local updates, N nodes.", (READINGS,)),
    Column(
        *("compute to target", _of_target("kept_flops"), "FLOP"),
        "Floating point operations of all nodes until the headline's target is kept.",
        (READINGS,),
        "never",
    ),
    Column(
        *("virtual time to target", _of_target("kept_virtual_seconds"), "s"),
        RATES,
        (READINGS,),
        "never",
    ),
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
    Column("one transfer", lambda r: 4 * r["tunables"], "bytes", "Tunables in fp32.", (COSTS,)),
    Column(
        *("busiest node, whole run", "busiest_node_bytes", "bytes"),
        "Wire that the node with most of it sent and received.",
        (COSTS,),
    ),
    Column(
        *("relayed by Flower's star", "total_relay", "bytes"),
        "All that passed the server, because Flower has no other way between nodes.",
        (COSTS,),
    ),
    Column("virtual time", "virtual_seconds", "s", RATES, (TRAVEL, COSTS)),
    Column("wall time", "wall_seconds", "s", "On the machine that measured.", (COSTS,)),
    Column("energy", "joules", "J", RATES, (COSTS,)),
    Column("compute", "flops", "FLOP", "Floating point operations of all nodes.", (COSTS,)),
    Column(
        *("peak memory of a node", "peak_node_bytes", "bytes"),
        "Weights, gradients, optimiser state and saved tensors of one step.",
        (COSTS, LINKS),
    ),
    _took("delivery", "down", "Messages from the edge server"),
    _took("sensing", "sensing", "Acquiring samples"),
    _took("computing", "compute", "Computing"),
    _took("between nodes", "d2d", "Messages from node to node, beyond what goes on beside them"),
    _took("between stations", "backhaul", "Messages between base stations"),
    _took("upload", "up", "Messages to the edge server"),
    _took("waiting", "waiting", "What nothing came of"),
    Column("energy of computing", "joules_compute", "J", RATES, (TIME,)),
    Column("of sending", "joules_radio", "J", RATES, (TIME,)),
    Column("of sensing", "joules_sensing", "J", RATES, (TIME,)),
    Column(
        *("most of a node", "most_joules", "J"),
        "Energy of the node that spent most, which its battery has to hold.",
        (TIME,),
    ),
    Column("up", "up_bytes", "bytes", "Wire from nodes to the edge server.", (LINKS,)),
    Column("down", "down_bytes", "bytes", "Wire from the edge server to nodes.", (LINKS,)),
    Column("node to node", "d2d_bytes", "bytes", "Wire between nodes.", (LINKS,)),
    Column("stations", "backhaul_bytes", "bytes", "Wire between base stations.", (LINKS,)),
    Column(
        *("spectrum", "spectrum_hz_s", "Hz s"),
        "Bandwidth times the time for which each message would have had it alone.",
        (LINKS,),
    ),
    Column(
        *("memory of all nodes", "sum_node_bytes", "bytes"),
        "Sum of each node's largest step.",
        (LINKS,),
    ),
    Column(
        *("models within 1 s", "in_time_share", "share"),
        "Share of models moved in the time that 3GPP TS 22.261, table 7.10.1-2, asks for.",
        (LINKS,),
    ),
    Column(
        *("at 1.1 Gbit/s", "at_rate_share", "share"),
        "Share moved at the rate it asks for, with which 138 MB take a second.",
        (LINKS,),
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
TUNED = (
    Column("strategy", "strategy", "", "The entry's label in the config."),
    Column("tried", lambda r: f"{r['tried']} of {r['combinations']}", "", "Settings, of all."),
    Column("chosen", lambda r: _setting(r), "", "What may vary, as it was chosen."),
    Column("target", lambda r: decimals(r.get("target")), "", "Accuracy in its last rung."),
    Column("wire to target", lambda r: r.get("kept_bytes"), "bytes", "Median.", none="never"),
    Column("best accuracy", lambda r: r.get("best"), "mean", "At the best point."),
    Column("final accuracy", lambda r: r.get("final"), "mean", "At the last point."),
    Column("seeds", lambda r: str(len(r.get("seeds", []))), "", "On which it was measured."),
)
"""Of `mfd tune`; a row is a search of ``tuning.json``, its chosen setting and that one's result."""


def _setting(row: Row) -> str:
    if row["chosen"] is None:
        return "none, every setting failed"
    words = [f"{name} {value}" for name, value in row["values"].items()]
    return "\n".join(words if row["number"] else [*words, "(as it stands)"])


def decimals(accuracy: float | None) -> str:
    """Write an accuracy, if there is one."""
    return "-" if accuracy is None else f"{accuracy:.3f}"


def _accuracy(served: Row) -> str:
    return decimals(served["accuracy"])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _others(top: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{each['class']} {each['probability']:.1%}" for each in top[1:])
