"""What a tuning leaves: every setting that was tried, and a comparison with those chosen."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from mfd_flower.checks import one_line
from mfd_flower.comparison import Tables
from mfd_flower.search_space import dotted, varied
from mfd_flower.tuning.halving import Objective, Trial, by_search, chosen

SCHEMA = 1


def outcome_of(trials: Sequence[Trial], objective: Objective) -> dict[str, Any]:
    """Return every search and every setting in JSON's form, each with why it is chosen or not."""
    searches, settings = [], []
    for group in by_search(trials):
        best, search = chosen(group, objective), group[0].search
        told = {"strategy": search.label, "entry": search.place, "scenario": search.scenario}
        searches.append(
            {
                **told,
                "varies": {dotted(each.path): [*each.values] for each in search.space},
                "combinations": search.combinations,
                "tried": len(group),
                "chosen": best and best.setting.number,
            }
        )
        settings += [
            {
                **told,
                "number": trial.setting.number,
                "values": {dotted(path): v for path, v in trial.setting.values.items()},
                "rungs": trial.results,
                "chosen": trial is best,
                "why": trial.failed or trial.rank,
            }
            for trial in group
        ]
    return {"searches": searches, "settings": settings}


def tuned_toml(tables: Tables, trials: Sequence[Trial], told: Mapping[str, Any]) -> str:
    """Return the comparison with the chosen values, and nothing left to vary.

    Where scenarios choose differently there is an entry for each choice, kept to its scenarios. An
    entry of which every setting failed stays as it is.
    """
    choices: dict[int, list[tuple[dict[str, Any], list[str]]]] = {}
    for group in by_search(trials):
        best, search = chosen(group, told["objective"]), group[0].search
        changes = best.setting.values if best and best.setting.number else {}
        entry = varied(tables["strategies"][search.place], changes)
        made = choices.setdefault(search.place, [])
        scenarios = next((names for known, names in made if known == entry), None)
        if scenarios is None:
            made.append((entry, [search.scenario]))
        else:
            scenarios.append(search.scenario)
    entries = [
        entry if len(made) == 1 else {**entry, "only": names}
        for _, made in sorted(choices.items())
        for entry, names in made
    ]
    kept = {key: value for key, value in tables.items() if key not in ("name", "tune")}
    text = tomli_w.dumps({"name": told["name"], **kept, "strategies": entries})
    return f"{_header(told)}{text}"


def command_line(config: str, out: Path | str, how: Mapping[str, Any]) -> str:
    """Return the command that does a tuning."""
    seeds = ",".join(map(str, how["seeds"]))
    words = ["mfd", "tune", config, "--budget", str(how["budget"]), "--seeds", seeds]
    words += [f"--scenario={name}" for name in how.get("scenarios", ())]
    words += ["--objective", how["objective"], "--out", str(out)]
    return one_line(shlex.join(words))


def _header(told: Mapping[str, Any]) -> str:
    packages = " ".join(f"{name} {each}" for name, each in told["machine"]["packages"].items())
    lines = [
        told["command"],
        "Chosen on other seeds than those below; all that was tried is in tuning.json.",
        f"python {told['machine']['python']} {packages}",
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n"
