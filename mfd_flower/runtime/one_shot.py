"""The server half of a method that asks each node once, and is done."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.records import joined, part_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnLoop, Step

ASK = RecordDict({"config": ConfigRecord({"ask": "once"})})


class OneShot(OwnLoop):
    """Mixin for a star whose nodes upload once; who did not answer is asked again in a later round.

    A subclass says in `kind` which message it asks by, and in `solved` what the answers make. The
    nodes are asked in an order that the run's seed draws, `clients` of them a round; 0 asks all at
    once. When all have answered the run ends, whatever the number of rounds.
    """

    kind: ClassVar[str]

    def __init__(self, run: RunConfig, clients: int) -> None:
        if run.model.tune != "head":
            accepted = "head, which is all that is solved for"
            raise ConfigError("model.tune", run.model.tune, f"accepted here: {accepted}")
        self.run, self.clients = run, clients
        self.num_classes = federation_of(run).num_classes
        self.answers: dict[str, ArrayRecord] = {}
        """What each node has uploaded, by address."""
        self.done = 0

    @abstractmethod
    def solved(self, arrays: ArrayRecord, answers: Mapping[str, ArrayRecord]) -> ArrayRecord:
        """Return the model that `answers`, of one node or more, make of the initial `arrays`."""

    @abstractmethod
    def read(self, answer: ArrayRecord) -> object:
        """Return what is in an answer; raises KeyError or ValueError if it counts as none."""

    def state_dict(self) -> RecordDict:
        """Return the round that was yielded last, and the answers."""
        loop = RecordDict({"loop": ConfigRecord({"done": self.done})})
        return joined({"loop": loop, "answers": RecordDict({**self.answers})})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that round."""
        self.done = int(part_of(state, "loop").config_records["loop"]["done"])  # type: ignore[arg-type]
        self.answers = dict(part_of(state, "answers").array_records)

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Ask until all have answered, for `num_rounds` rounds at most."""
        if not self.done:
            yield Step(0, arrays)
        nodes = [f"n{index}" for index in range(self.run.data.nodes)]
        order = np.random.default_rng([self.run.seed, len(nodes)]).permutation(nodes).tolist()
        model = self.solved(arrays, self.answers) if self.answers else arrays
        for number in range(self.done + 1, num_rounds + 1):
            missing = [name for name in order if name not in self.answers]
            if not missing:
                break
            self.done = number
            asked = missing[: self.clients or None]
            for name, answer in grid.ask(self.kind, dict.fromkeys(asked, ASK), timeout).items():
                try:
                    uploaded = next(iter(answer.array_records.values()))
                    self.read(uploaded)
                except (ValueError, KeyError, StopIteration) as error:
                    grid.failures.append(f"its answer is refused: {error}")
                    grid.failed.append(name)
                else:
                    self.answers[name] = uploaded
            if self.answers:
                model = self.solved(arrays, self.answers)
            yield Step(number, model)
