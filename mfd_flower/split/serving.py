"""Split inference as a service: stages are delivered, a node asks, its cluster answers.

GaisNet sections II-C and III-B (arXiv 2401.02668): where members have the backbone only prompts and
head are delivered; the result returns to the asker and to nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from mfd_flower.accounting.unbilled import REPORT
from mfd_flower.config import RunConfig
from mfd_flower.models import set_tunables
from mfd_flower.models.residents import model_for, shard
from mfd_flower.models.tunables import named_tunables
from mfd_flower.node import Node
from mfd_flower.records import integer, number, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.split.frames import LinkError
from mfd_flower.split.roster import EDGE, Roster
from mfd_flower.split.share import Share, bill
from mfd_flower.split.together import together, word_of_failure
from mfd_flower.split.work import infer_position, side_by_side, stages_of

DELIVERED = "delivered-stage"


def deliver(message: Message, context: Context) -> Message:
    """Keep a stage to answer requests with."""
    context.state[DELIVERED] = message.content.array_records["arrays"]
    return Message(RecordDict(), reply_to=message)


def answer(message: Message, context: Context) -> Message:
    """Run this node's stage for a request; the first member asks, about held-out samples."""
    node = Node.of(context)
    roster = Roster.from_record(message.content.config_records["roster"])
    count = integer(message.content.config_records["request"], "samples")
    tensors = tensors_of(context.state.array_records[DELIVERED])
    asks = roster.members[0] == node.address
    test = shard(node.run, None) if asks else None

    def work(position: int) -> Share:
        inputs = test.inputs[:count] if test and position == 0 else None
        return infer_position(roster, position, tensors, node.run, node.num_classes, inputs=inputs)

    try:
        shares = side_by_side(work, roster.positions(node.address))
    except LinkError as error:
        return word_of_failure(error, message)
    metrics = MetricRecord({})
    if test is not None and (logits := shares[0].logits) is not None:
        right = logits.argmax(1) == test.labels[:count]
        metrics = MetricRecord({"accuracy": float(right.float().mean()), "samples": len(logits)})
    cost = ConfigRecord({**bill(shares, roster, node.run.network, fits=0)})
    return Message(RecordDict({"metrics": metrics, REPORT: cost}), reply_to=message)


SERVING_ACTIONS: Mapping[str, Callable[[Message, Context], Message]] = {
    "query.deliver": deliver,
    "query.infer": answer,
}


@dataclass(frozen=True)
class Service:
    """A cluster that has its stages and answers requests.

    Parameters
    ----------
    grid : MeteredGrid
        Reaches the members.
    run : RunConfig
        Settings.
    num_classes : int
        Classes of the data.
    roster : Roster
        The cluster; its first member asks.
    arrays : ArrayRecord
        Tunables of the whole model.
    whole : bool
        Deliver all parameters of each stage, to members that have no backbone.
    """

    grid: MeteredGrid
    run: RunConfig
    num_classes: int
    roster: Roster
    arrays: ArrayRecord
    whole: bool = False

    def deliver(self, timeout: float) -> None:
        """Send each member its stage."""
        requests = []
        for name in self.roster.nodes:
            content = RecordDict({"arrays": ArrayRecord(self._stage_of(name))})
            requests.append(Message(content, self.grid.node_id(name), "query.deliver"))
        list(self.grid.send_and_receive(requests, timeout=timeout))

    def ask(self, samples: int, timeout: float) -> dict[str, float]:
        """Let the first member ask about so many held-out samples.

        Returns
        -------
        dict
            What it tells the experimenter: ``accuracy`` and ``samples``.

        Raises
        ------
        LinkError
            If a member fails.
        """
        request = ConfigRecord({"samples": samples})
        content = RecordDict({"roster": ConfigRecord(self.roster.to_record()), "request": request})
        edge = self._stage_of(EDGE)

        def stand_in(roster: Roster, position: int) -> Share:
            return infer_position(roster, position, edge, self.run, self.num_classes)

        (outcome,) = together(
            self.grid,
            [self.roster],
            "query.infer",
            lambda roster, name: content,
            stand_in,
            self.run.network,
            timeout=timeout,
            fits=0,
        )
        if outcome.content is None:
            raise LinkError(f"no answer: {outcome.reason}")
        metrics = outcome.content.metric_records["metrics"]
        return {name: number(metrics, name) for name in ("accuracy", "samples")}

    def _stage_of(self, address: str) -> dict[str, Tensor]:
        set_tunables(
            model_for(self.run),
            tensors_of(self.arrays),
        )
        stages = stages_of(self.run, self.num_classes, self.roster)
        found = {}
        for position in self.roster.positions(address):
            part = stages[position].part
            named = part.named_parameters() if self.whole else named_tunables(part)
            found.update({name: p.detach().clone() for name, p in named})
        return found
