"""What a comparison measured, as one object: for notebooks, reports and the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfd_flower.accounting.summary import summarise
from mfd_flower.checks import ConfigError, show
from mfd_flower.files import write_json

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 2
FILE = "results.json"


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
        return summarise(self.runs, self.config["margin"])

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

    def save(self, folder: Path | str) -> None:
        """Write ``results.json``."""
        write_json(Path(folder) / FILE, {"schema": SCHEMA, **vars(self), "summary": self.summary})

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
        schema = found.get("schema") if isinstance(found, dict) else None
        if schema != SCHEMA:
            raise refused(f"{FILE} is of schema {show(schema)}, accepted: {SCHEMA}; measure again")
        try:
            results = cls(found["config"], found["machine"], found["runs"])
            _ = results.summary
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise refused(f"{FILE} is damaged ({type(error).__name__}: {error})") from error
        return results


def reason_of(error: object) -> str:
    """Return the last line of an error's text, which says why."""
    return (str(error).strip().splitlines() or [""])[-1].strip()
