"""Split inference as a service: stages are delivered, a node asks, its cluster answers.

GaisNet sections II-C and III-B (arXiv 2401.02668): where members have the backbone only prompts and
head are delivered; the result returns to the asker and to nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from mfd_flower.config import RunConfig
from mfd_flower.models.residents import frozen_features, shard
from mfd_flower.network.world import EDGE
from mfd_flower.node import Node
from mfd_flower.records import integer, number, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.split.frames import LinkError
from mfd_flower.split.member import infer_position, take_part, tensors_for
from mfd_flower.split.pipeline import StageResult
from mfd_flower.split.roster import Roster
from mfd_flower.split.round import run_round

DELIVERED = "delivered-stage"
ASKED, ANSWERED = "asked-about", "answered"
"""Images that the asker has a question about, and the logits that came back; both stay there."""


def deliver(message: Message, context: Context) -> Message:
    """Keep a stage to answer requests with."""
    context.state[DELIVERED] = message.content.array_records["arrays"]
    return Message(RecordDict(), reply_to=message)


def answer(message: Message, context: Context) -> Message:
    """Run this node's stages for a request.

    The first member asks, about images that its user gave it, else about held-out samples.
    """
    node = Node.of(context)
    count = integer(message.content.config_records["request"], "samples")
    tensors = tensors_of(context.state.array_records[DELIVERED])
    asked = context.state.array_records.get(ASKED)

    def work(roster: Roster, position: int) -> StageResult:
        inputs = None
        if position == 0 and asked is not None:
            inputs = frozen_features(node.run, tensors_of(asked)["images"])
        elif position == 0:
            inputs = shard(node.run, "test").inputs[:count]
        return infer_position(roster, position, tensors, node.run, inputs)

    def reply(roster: Roster, results: list[StageResult]) -> RecordDict:
        metrics = MetricRecord()
        if (logits := results[0].logits) is not None:
            metrics["samples"] = len(logits)
            context.state[ANSWERED] = ArrayRecord({"logits": logits})
            if asked is None:
                right = logits.argmax(1) == shard(node.run, "test").labels[:count]
                metrics["accuracy"] = float(right.float().mean())
        return RecordDict({"metrics": metrics})

    return take_part(message, node, work, reply, fits=0)


@dataclass(frozen=True)
class Service:
    """A cluster that has its stages and answers requests."""

    grid: MeteredGrid
    run: RunConfig
    roster: Roster
    """The cluster; its first member asks."""
    tensors: dict[str, Tensor]
    """Tunables of the whole model."""
    whole: bool = False
    """Deliver all parameters of each stage, to members that have no backbone."""

    def deliver(self, timeout: float) -> None:
        """Send each member its stages."""
        stages = {name: ArrayRecord(self._stages_of(name)) for name in self.roster.nodes}
        contents = {name: RecordDict({"arrays": arrays}) for name, arrays in stages.items()}
        self.grid.ask("query.deliver", contents, timeout)

    def ask(self, samples: int, timeout: float) -> dict[str, float]:
        """Let the first member ask about so many samples; LinkError if a member fails.

        Returns what it tells the experimenter: ``samples``, and ``accuracy`` of held-out ones.
        """
        request = ConfigRecord({"samples": samples})
        content = RecordDict({"roster": ConfigRecord(self.roster.to_record()), "request": request})
        edge = self._stages_of(EDGE)
        (outcome,) = run_round(
            self.grid,
            [self.roster],
            self.run,
            "query.infer",
            lambda roster, name: content,
            lambda roster, position: infer_position(roster, position, edge, self.run),
            timeout=timeout,
            fits=0,
        )
        if outcome.content is None:
            raise LinkError(f"no answer: {outcome.reason}")
        metrics = outcome.content.metric_records["metrics"]
        return {name: number(metrics, name) for name in metrics}

    def _stages_of(self, address: str) -> dict[str, Tensor]:
        return tensors_for(address, self.roster, self.run, self.tensors, self.whole)
