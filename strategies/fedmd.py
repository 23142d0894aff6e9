"""FedMD, federated distillation: only what models say of public images travels.

Li and Wang 2019, *FedMD* (arXiv 1910.03581), algorithm 1: in each round every node sends its own
model's logits on a public set, the server sends back their mean, and each node learns from it
(digest) and then from its own data (revisit). Models may be of any architecture. What goes a round
and node is classes x public samples x 4 or 2 bytes, each way. Here a node learns from the mean as
from any teacher, by the divergence of softened probabilities (`mfd_flower.models.loss.Teacher`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from mfd_flower.checks import ConfigError, bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.loss import Teacher
from mfd_flower.models.residents import shard
from mfd_flower.own_model import QUERY, keep_own, own_model, show_own
from mfd_flower.records import integer, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnModels

SAID = "said"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class FedMDOptions:
    """How models learn from the mean of all."""

    digest_epochs: int = bounded(1, 1)
    """Over the public set, in each round but the first."""
    temperature: float = bounded(1.0, 0.0, 100.0, open_low=True)
    """At which a model is compared with the mean of logits."""
    codec: Literal["fp32", "fp16"] = "fp16"
    """How logits travel."""


def digest(message: Message, context: Context) -> Message:
    """Learn from what all said of the public set, then from own data; say what the model says."""
    node, own = own_model(context)
    options: FedMDOptions = build(FedMDOptions, node.run.strategy.keywords(), "options.")
    number = integer(message.content.config_records["config"], "round")
    public = shard(node.run, "public")
    if SAID in message.content.array_records:
        (said,) = tensors_of(message.content.array_records[SAID]).values()
        teacher = Teacher(said.float(), weight=1.0, temperature=options.temperature)
        # Steps of the two parts of a round, so that no two fits draw alike.
        own, _ = node.fit(
            own, 2 * number, samples=public, epochs=options.digest_epochs, teacher=teacher
        )
    own, _ = node.fit(own, 2 * number + 1)
    keep_own(context, own)
    logits = node.logits(own, public).to(DTYPES[options.codec])
    return Message(RecordDict({SAID: ArrayRecord({SAID: logits})}), reply_to=message)


class FedMD(OwnModels, Strategy):
    """Let models of any kind learn from what all of them say."""

    Options: ClassVar = FedMDOptions
    client_actions: ClassVar = {"train.digest": digest, QUERY: show_own}
    links: ClassVar = {QUERY: "relay"}
    own_models: ClassVar = staticmethod(lambda run: "any")

    def __init__(self, run: RunConfig, **options: Any) -> None:
        super().__init__()
        self.options: FedMDOptions = build(FedMDOptions, options, "options.")
        if not len(federation_of(run).public):
            raise ConfigError("data.public_samples", 0, "at least 1 for fedmd")
        self.said: Tensor | None = None

    def round(self, grid: MeteredGrid, number: int, arrays: ArrayRecord, timeout: float) -> None:
        """Let all nodes learn what was said, train and say."""
        content = RecordDict({"config": ConfigRecord({"round": number})})
        if self.said is not None:
            content[SAID] = ArrayRecord({SAID: self.said})
        answers = grid.ask("train.digest", dict.fromkeys(grid.nodes, content), timeout)
        if answers:
            self.said = self._mean(answers)
        self.look(grid, timeout)

    def _mean(self, answers: Mapping[str, RecordDict]) -> Tensor:
        told = [tensors_of(each.array_records[SAID])[SAID].float() for each in answers.values()]
        return torch.stack(told).mean(0).to(DTYPES[self.options.codec])

    def state_dict(self) -> RecordDict:
        """Return the round that was yielded last, the models, and what was said."""
        state = super().state_dict()
        if self.said is not None:
            state[SAID] = ArrayRecord({SAID: self.said})
        return state

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that round."""
        super().load_state_dict(state)
        if SAID in state:
            (self.said,) = tensors_of(state.array_records[SAID]).values()
