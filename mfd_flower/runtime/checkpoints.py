"""Checkpoints of a run: it goes on from the last one as if it had never stopped.

A checkpoint stands at the end of a round or hop. It is one file of Flower's records, replaced in
one step, and a log of what only grows. Nodes keep their own states, see `mfd_flower.node_state`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.files import write_bytes
from mfd_flower.records import from_bytes, joined, part_of, plain_record, plain_values, to_bytes

STATE, LOG = "run.state", "run.jsonl"
News = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds."""

    step: int
    states: Mapping[str, int]
    """Step at which each node kept its state."""
    parts: RecordDict
    """All others' states, `joined`."""
    log: dict[str, list[Any]]


class Checkpoints:
    """The checkpoints of one run, of these settings, in its own folder ``<folder>/<run>``."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = folder / run, dict(settings)
        self._logged = 0
        self._lengths: dict[str, int] = {}

    @property
    def begun(self) -> bool:
        """Whether the run was begun and has not ended."""
        return self._path.is_dir()

    def begin(self) -> None:
        """Forget what an earlier start kept."""
        self.drop()
        self._path.mkdir(parents=True)

    def save(
        self, step: int, states: Mapping[str, int], parts: Mapping[str, RecordDict], lists: News
    ) -> None:
        """Write a checkpoint; of `lists` what has come since the last one."""
        news = {name: each[self._lengths.get(name, 0) :] for name, each in lists.items()}
        line = json.dumps(news).encode() + b"\n"
        with (self._path / LOG).open("r+b" if self._logged else "wb") as file:
            # Behind it may be what an earlier start wrote and no checkpoint names.
            file.truncate(self._logged)
            file.seek(self._logged)
            file.write(line)
        logged = self._logged + len(line)
        told = {"step": step, "states": dict(states), "logged": logged, "settings": self._settings}
        head = plain_record(told)
        content = joined({"head": RecordDict({"head": head}), "parts": joined(parts)})
        write_bytes(self._path / STATE, to_bytes(content))
        self._logged = logged
        self._lengths = {name: len(each) for name, each in lists.items()}

    def load(self) -> Kept | None:
        """Return the last checkpoint, None if there is none.

        Raises
        ------
        ConfigError
            If it is damaged, or of other settings.
        """
        path = self._path / STATE
        if not path.is_file():
            return None
        try:
            content = from_bytes(path.read_bytes())
            head = plain_values(part_of(content, "head").config_records["head"])
            logged = (self._path / LOG).read_bytes()[: head["logged"]]
            if len(logged) < head["logged"]:
                raise ValueError(f"{LOG} is too short")
            lines = [json.loads(line) for line in logged.splitlines()]
        except (OSError, ValueError) as error:
            said = f"damaged checkpoint ({error}); --overwrite begins anew"
            raise ConfigError("--resume", str(path), said) from error
        if head["settings"] != self._settings:
            said = "a checkpoint of other settings; --overwrite begins anew"
            raise ConfigError("--resume", str(path), said)
        log = {name: [each for line in lines for each in line[name]] for name in lines[0]}
        self._logged = head["logged"]
        self._lengths = {name: len(each) for name, each in log.items()}
        return Kept(head["step"], head["states"], part_of(content, "parts"), log)

    def drop(self) -> None:
        """Remove them: the run has ended."""
        shutil.rmtree(self._path, ignore_errors=True)
