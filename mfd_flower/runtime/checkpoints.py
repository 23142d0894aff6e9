"""Checkpoints of a run: it goes on from the last one as if it had never stopped.

A checkpoint stands at the end of a round or hop. It is one file of Flower's records, replaced in
one step, and a log of what only grows. Nodes keep their own states, see `mfd_flower.node_state`.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.files import write_bytes
from mfd_flower.node_state import IDENTITY
from mfd_flower.records import from_bytes, joined, part_of, plain_record, plain_values, to_bytes

STATE, LOG, IDENTITY_FILE = "run.state", "run.jsonl", "run.id"
News = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds."""

    done: int
    """Steps that were measured, without step 0."""
    states: Mapping[str, int]
    """How many were when each node kept its state."""
    parts: RecordDict
    """All others' states, `joined`."""
    log: dict[str, list[Any]]


class Checkpoints:
    """The checkpoints of one run, of these settings, in a folder of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = folder, dict(settings)
        self._logged = 0
        self._lengths: dict[str, int] = {}

    @property
    def identity(self) -> str:
        """Random text by which nodes tell this run from others of its name; empty if not begun."""
        path = self._path / IDENTITY_FILE
        with self.reading():
            return IDENTITY.check("identity", path.read_text()) if path.is_file() else ""

    def begin(self) -> None:
        """Forget what an earlier start kept."""
        shutil.rmtree(self._path, ignore_errors=True)
        write_bytes(self._path / IDENTITY_FILE, secrets.token_hex(8).encode())

    def save(
        self, done: int, states: Mapping[str, int], parts: Mapping[str, RecordDict], lists: News
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
        told = {"done": done, "states": dict(states), "logged": logged, "settings": self._settings}
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
        with self.reading():
            content = from_bytes(path.read_bytes())
            head = plain_values(part_of(content, "head").config_records["head"])
            logged = (self._path / LOG).read_bytes()[: head["logged"]]
            if len(logged) < head["logged"]:
                raise ValueError(f"{LOG} is too short")
            lines = [json.loads(line) for line in logged.splitlines()]
            log = {name: [each for line in lines for each in line[name]] for name in lines[0]}
            self._logged = head["logged"]
            self._lengths = {name: len(each) for name, each in log.items()}
            kept = Kept(head["done"], head["states"], part_of(content, "parts"), log)
            settings = head["settings"]
        if RunConfig.given(settings) != RunConfig.given(self._settings):
            raise self._refused("a checkpoint of other settings")
        return kept

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Refuse the checkpoint, whatever goes wrong while it is taken up."""
        try:
            yield
        except Exception as error:
            # A file may hold anything, and so it may break in any way.
            raise self._refused(f"damaged checkpoint ({type(error).__name__}: {error})") from error

    def _refused(self, reason: str) -> ConfigError:
        said = f"{reason}; without the folder {self._path} this run begins anew"
        return ConfigError("--resume", str(self._path / STATE), said)
