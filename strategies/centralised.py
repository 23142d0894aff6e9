"""Centralised, the upper bound: the data travels to one place, privacy is given up.

Every node uploads its raw images (uint8) and labels to a data centre, which here is node 0; they
are counted as ``up``. From then on the centre trains on all of it and nothing else is sent. For
small images this can cost fewer bytes than any model: the price is that the data has left. What is
lost on its way is asked for, or sent, again in the next round.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import Samples
from mfd_flower.data.samples import prepared
from mfd_flower.models import input_spec
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.residents import at_frozen_stage, model_for
from mfd_flower.node import Node
from mfd_flower.records import integer, joined, part_of, plain_record, plain_values, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import Rounds, Step

CENTRE = "n0"
UPLOADED = "uploaded"
MODEL = "centre-tunables"


def upload(message: Message, context: Context) -> Message:
    """Hand out this node's raw data."""
    node = Node.of(context)
    federation = federation_of(node.run)
    share = federation.shares[node.index]
    images, labels = federation.images.images[share], federation.images.labels[share]
    small = labels.astype(np.min_scalar_type(federation.num_classes - 1))
    raw = ArrayRecord({"images": Array(images), "labels": Array(small)})
    return Message(RecordDict({"data": raw}), reply_to=message)


def centre(message: Message, context: Context) -> Message:
    """Train one round on everything that was uploaded."""
    node = Node.of(context)
    for name, record in message.content.array_records.items():
        context.state[MODEL if name == "arrays" else f"{UPLOADED}.{name}"] = record
    step = integer(message.content.config_records["config"], "round")
    own = tensors_of(context.state.array_records[MODEL])
    trained, _ = node.fit(own, step=step, samples=all_samples(node, context))
    context.state[MODEL] = ArrayRecord(trained)
    return Message(RecordDict({"arrays": ArrayRecord(trained)}), reply_to=message)


def all_samples(node: Node, context: Context) -> Samples:
    """Turn the uploads and this node's own data into samples for the model."""
    records = context.state.array_records.items()
    parts = [record for name, record in records if name.startswith(UPLOADED)]
    if not parts:
        return node.samples
    images = np.concatenate([part["images"].numpy() for part in parts])
    labels = np.concatenate([part["labels"].numpy().astype(np.int64) for part in parts])
    model, own = model_for(node.run), node.samples
    uploaded = at_frozen_stage(node.run, prepared(images, labels, input_spec(model.backbone)))
    inputs = torch.cat([own.inputs[:], uploaded.inputs[:]])
    return Samples(inputs, torch.cat([own.labels, uploaded.labels]))


class Centralised(Rounds, Strategy):
    """Collect all data on node 0 and train there."""

    client_actions: ClassVar = {"query.upload": upload, "train.centre": centre}
    links: ClassVar = {"query.upload": "relay", "train.centre": "up"}

    def __init__(self, run: RunConfig) -> None:
        if name := run.train.augmentation:
            raise ConfigError("train.augmentation", name, "accepted by centralised: none")
        self.missing = list(range(1, run.data.nodes))
        """Nodes that have not uploaded yet."""
        self.content = RecordDict()
        """What the centre has not got yet."""

    def state_dict(self) -> RecordDict:
        """Return the round that was yielded last, and what is still to be delivered."""
        left = RecordDict({"left": plain_record({"missing": self.missing})})
        return joined({"rounds": super().state_dict(), "left": left, "content": self.content})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that round."""
        super().load_state_dict(part_of(state, "rounds"))
        self.missing = plain_values(part_of(state, "left").config_records["left"])["missing"]
        self.content = part_of(state, "content")

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Collect, then train `num_rounds` times over all data."""
        if not self.done:
            yield Step(0, arrays)
            self.content["arrays"] = arrays
        for number in range(self.done + 1, num_rounds + 1):
            self.done = number
            self.collect(grid, timeout)
            self.content["config"] = ConfigRecord({"round": number})
            answers = grid.ask("train.centre", {CENTRE: self.content}, timeout)
            if CENTRE in answers:
                arrays, self.content = answers[CENTRE].array_records["arrays"], RecordDict()
            yield Step(number, arrays)

    def collect(self, grid: MeteredGrid, timeout: float) -> None:
        """Add to `content` what nodes upload that have not done so yet."""
        ask = RecordDict({"config": ConfigRecord({"ask": "data"})})
        asked = {f"n{node}": node for node in self.missing}
        uploads = grid.ask("query.upload", dict.fromkeys(asked, ask), timeout) if asked else {}
        self.missing = [node for address, node in asked.items() if address not in uploads]
        for address, upload in uploads.items():
            self.content[f"data-{asked[address] - 1}"] = upload.array_records["data"]
