"""What a comparison measured, as one object: for notebooks, reports and the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfd_flower.accounting.summary import summarise
from mfd_flower.checks import ConfigError, checked, show
from mfd_flower.comparison import Metric
from mfd_flower.files import to_json, write_json, write_text

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 2
FILE = "results.json"
REPORT_FILES = (
    *("report.html", "rounds.csv", "summary.csv", "summary.json"),
    *(f"{kind}-[0-9]*.{end}" for kind in ("accuracy", "bytes", "visits") for end in ("png", "svg")),
)
"""Patterns of what a report on them consists of, in the same folder."""
MACHINE = ("cores", "processor", "python", "packages")
RUN: Mapping[str, type] = {
    "scenario": str,
    "strategy": str,
    "seed": int,
    "yardstick": bool,
    "diverged": str,
    "tunables": int,
    "wall_seconds": float,
}
POINT: Mapping[str, type] = {"step": int, "updates": int, "accuracy": float}
VERSION = (
    *("walker", "author", "parents", "version", "samples", "reason", "refused_by"),
    *("accuracy_before", "accuracy_after"),
)
"""What a report shows of the machine, of a run, of a point, and of a version in its ledger."""
MOST_NODES = 100_000
BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
NODE = re.compile(r"n(0|[1-9][0-9]{0,8})")


@dataclass
class Results:
    """The runs of one comparison."""

    config: Mapping[str, Any]
    """`Comparison.describe`."""
    machine: Mapping[str, Any]
    """Where the numbers were made."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """One a finished run: strategy, scenario, seed, points and what else was counted."""

    @property
    def summary(self) -> dict[str, Any]:
        """Scenario to target, yardstick and one row a strategy, see `summarise`."""
        return summarise(self.runs, self.config["margin"], self.config["metric"])

    def frame(self) -> DataFrame:
        """Return one row a measured point: scenario, strategy, seed, and the point's numbers."""
        import pandas

        return pandas.DataFrame(
            {
                **{key: run[key] for key in ("scenario", "strategy", "seed")},
                **{key: value for key, value in point.items() if not isinstance(value, dict)},
                **{f"bytes_{kind}": size for kind, size in point["bytes"].items()},
                **{f"by_nodes_{key}": value for key, value in point.get("by_nodes", {}).items()},
            }
            for run in self.runs
            for point in run["points"]
        )

    def _repr_html_(self) -> str:
        """Return the tables of the report, for a notebook."""
        from mfd_flower.report.notebook import as_html

        return as_html(self)

    def save(self, folder: Path | str) -> None:
        """Write ``results.json``."""
        write_json(Path(folder) / FILE, {"schema": SCHEMA, **vars(self), "summary": self.summary})

    def save_texts(self, folder: Path, runs: Iterable[str]) -> None:
        """Write ``results.json`` without the summary, its `runs` as `to_json` made them.

        So a run that ends while others go on costs no more than what it adds, and the bytes.
        """
        head = to_json({"schema": SCHEMA, "config": self.config, "machine": self.machine})
        text = head.removesuffix("\n}") + ',\n "runs": [\n' + ",\n".join(runs) + "\n]}\n"
        write_text(folder / FILE, text)

    @classmethod
    def load(cls, folder: Path | str) -> Results:
        """Read ``results.json`` of a folder, or say in one line why not."""

        def refused(reason: str) -> ConfigError:
            return ConfigError("DIR", str(folder), reason)

        try:
            found = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
        except OSError as error:
            raise refused(f"no {FILE} ({error.strerror})") from error
        except ValueError as error:
            raise refused(f"{FILE} is not JSON ({error})") from error
        except RecursionError:
            raise refused(f"{FILE} is nested too deep") from None
        schema = found.get("schema") if isinstance(found, dict) else None
        if schema != SCHEMA:
            raise refused(f"{FILE} is of schema {show(schema)}, accepted: {SCHEMA}; measure again")
        with reading(folder):
            config = {"metric": "accuracy", **found["config"]}
            results = cls(config, found["machine"], found["runs"])
            _check(results)
            _ = results.summary
        return results


@contextmanager
def reading(folder: Path | str) -> Iterator[None]:
    """Say in one line that results of unknown origin are not what a run writes."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError("DIR", str(folder), f"{FILE} is damaged ({reason})") from error


def _check(results: Results) -> None:
    """Raise KeyError, TypeError or ValueError if something is missing that a report shows."""
    checked("config.name", results.config["name"], str)
    checked("config.margin", results.config["margin"], float)
    checked("config.metric", results.config["metric"], Metric)
    for name in MACHINE:
        _ = results.machine[name]
    _ = {**results.machine["packages"]}
    for place, run in enumerate(results.runs):
        for name, kind in RUN.items():
            checked(f"runs[{place}].{name}", run[name], kind)
        checked(f"runs[{place}].nodes", run["nodes"], int, {"low": 1, "high": MOST_NODES})
        for name, other in (("visits", None), ("sources", "")):
            for address in run.get(name, ()):
                if address == other:
                    continue
                node = NODE.fullmatch(address)
                if node is None or int(node[1]) >= run["nodes"]:
                    raise ConfigError(f"runs[{place}].{name}", address, "must be nodes of the run")
        for point in run["points"]:
            for name, kind in POINT.items():
                checked(f"runs[{place}].points.{name}", point[name], kind)
            if not isinstance(point["bytes"]["wire"], int):
                raise TypeError("bytes.wire")
        if (drawn := run.get("drawn")) and not BASE64.fullmatch(drawn["png"]):
            raise ValueError("drawn.png")
        for version in run.get("versions", ()):
            checked(f"runs[{place}].versions.hop", version["hop"], int)
            for name in VERSION:
                _ = version[name]


def reason_of(error: object) -> str:
    """Return the last line of an error's text, which says why."""
    return (str(error).strip().splitlines() or [""])[-1].strip()
