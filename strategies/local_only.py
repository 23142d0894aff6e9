"""Local only, the lower bound: every node trains alone and nothing is sent.

Each node keeps its own tunables. The curve is the mean accuracy of the nodes' models on the
common test set, as they were heard of last; what the server sees of them is measurement
(``relay``), not traffic.
"""

from __future__ import annotations

from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from mfd_flower.own_model import keep_own, own_model
from mfd_flower.records import integer
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnModels


def alone(message: Message, context: Context) -> Message:
    """Go on training this node's own model."""
    node, own = own_model(context)
    trained, _ = node.fit(own, step=integer(message.content.config_records["config"], "round"))
    keep_own(context, trained)
    return Message(RecordDict({"arrays": ArrayRecord(trained)}), reply_to=message)


class LocalOnly(OwnModels, Strategy):
    """Train every node by itself."""

    own_models: ClassVar = staticmethod(lambda run: "any")
    client_actions: ClassVar = {"train.alone": alone}
    links: ClassVar = {"train.alone": "relay"}

    def round(self, grid: MeteredGrid, number: int, arrays: ArrayRecord, timeout: float) -> None:
        """Let all nodes train."""
        content = RecordDict({"config": ConfigRecord({"round": number})})
        contents = dict.fromkeys(grid.nodes, content)
        for name, answer in grid.ask("train.alone", contents, timeout).items():
            self.models[name] = answer.array_records["arrays"]
