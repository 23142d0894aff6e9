"""FedBuff: nodes train whenever they are free, and the server averages every so many updates.

Nguyen et al. 2022, *Federated Learning with Buffered Asynchronous Aggregation* (arXiv 2106.06639,
algorithm 1): a fixed number of nodes is at work at any time, each on the model that was newest when
it began. Its update is the difference it made; ``w <- w + server_lr * mean(s(tau) * update)`` over
a full buffer, where tau counts the server's steps since it began and s(tau) = (1 + tau)^(-1/2).
Replies are taken in the order of virtual time. Its client half is the default `train` handler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from mfd_flower.checks import ConfigError, bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.records import tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnLoop, Step
from mfd_flower.wire_codec import shapes_of

DRAWS = 11
"""Purpose of the generator that chooses nodes."""
MOST_TRIES = 10
"""As many as this times the updates that are wanted are begun: the others are lost."""


@dataclass(frozen=True)
class FedBuffOptions:
    """How many work at once, and what becomes of their updates."""

    concurrency: int = bounded(3, 1)
    """Nodes at work at any time."""
    buffer: int = bounded(3, 1)
    """Updates that are averaged at once."""
    server_lr: float = bounded(1.0, 0.0, open_low=True)
    """How far the server goes along their mean."""
    staleness: float = bounded(0.5, 0.0)
    """An update that tau newer models overtook counts (1 + tau)^-staleness."""


class _Begun(NamedTuple):
    """A node at work, and what it began with."""

    address: str
    version: int
    arrays: ArrayRecord


class FedBuff(OwnLoop, Strategy):
    """Average updates as they come, so many at a time.

    `num_rounds` rounds are as many updates as nodes, each; the last ones that do not fill the
    buffer are averaged as they are, and who is still at work then has worked for nothing. A step is
    one of the server's.
    """

    Options: ClassVar = FedBuffOptions
    may_be_coded: ClassVar = True

    def __init__(self, run: RunConfig, **options: Any) -> None:
        self.run = run
        self.options: FedBuffOptions = build(FedBuffOptions, options, "options.")
        if self.options.concurrency > run.data.nodes:
            accepted = f"at most {run.data.nodes}, the nodes"
            raise ConfigError("options.concurrency", self.options.concurrency, accepted)

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Begin, take in and average."""
        wanted, version, begun = num_rounds * self.run.data.nodes, 0, 0
        rng = np.random.default_rng([self.run.seed, DRAWS])
        at_work: dict[str, _Begun] = {}
        buffer: list[dict[str, Tensor]] = []
        taken = 0
        yield Step(0, arrays)
        while taken < wanted:
            while len(at_work) < self.options.concurrency:
                begun += 1
                if begun > MOST_TRIES * wanted:
                    raise RuntimeError(f"{begun} updates were begun and {taken} arrived")
                busy = {each.address for each in at_work.values()}
                free = [address for address in grid.nodes if address not in busy]
                if not free:
                    break
                address = free[rng.integers(len(free))]
                message = self._request(grid, address, arrays, begun)
                (message_id,) = grid.push_messages([message])
                at_work[message_id] = _Begun(address, version, arrays)
            found = grid.pull_first(list(at_work), timeout)
            if found is None:
                raise RuntimeError(f"no node answers; {taken} of {wanted} updates arrived")
            message_id, reply = found
            node = at_work.pop(message_id)
            if reply is None or not reply.has_content():
                continue
            if (update := self._update(node, reply, version)) is None:
                grid.failures.append("its answer is no update of what it was sent")
                grid.failed.append(node.address)
                continue
            buffer.append(update)
            if len(buffer) == min(self.options.buffer, wanted - taken):
                taken += len(buffer)
                arrays, version, buffer = self._stepped(arrays, buffer), version + 1, []
                yield Step(version, arrays)

    def _request(self, grid: MeteredGrid, address: str, arrays: ArrayRecord, begun: int) -> Message:
        config = ConfigRecord({"server-round": begun})
        content = RecordDict({"arrays": arrays, "config": config})
        return Message(content, grid.node_id(address), "train")

    def _update(self, node: _Begun, reply: Message, version: int) -> dict[str, Tensor] | None:
        """Return what a node changed, the less the more models it missed; None if it is none."""
        weight = (1 + version - node.version) ** -self.options.staleness
        trained = tensors_of(next(iter(reply.content.array_records.values()), ArrayRecord()))
        start = tensors_of(node.arrays)
        if shapes_of(trained) != shapes_of(start):
            return None
        return {name: weight * (trained[name] - tensor) for name, tensor in start.items()}

    def _stepped(self, arrays: ArrayRecord, updates: list[dict[str, Tensor]]) -> ArrayRecord:
        rate = self.options.server_lr / len(updates)
        return ArrayRecord(
            {
                name: tensor + rate * torch.stack([update[name] for update in updates]).sum(0)
                for name, tensor in tensors_of(arrays).items()
            }
        )
