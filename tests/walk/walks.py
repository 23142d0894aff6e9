"""Walks under watch: their packets, their ledgers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict

from mfd_flower.config import RunConfig
from mfd_flower.ledger import Chains, Entry
from mfd_flower.node import initial_tunables
from mfd_flower.packets import Packet, PacketError, repack
from mfd_flower.walk.custody import PACKET, Custody, packet_in
from mfd_flower.walk.plan import plan_of
from mfd_flower.walk.visit import Visit
from strategies.mfd_walk import MFDWalk
from tests.harness import Tap, Trial


def hops(grid: Tap) -> list[Packet]:
    """The packets that were sent to be trained, in order, without those damaged on their way."""
    packets = []
    for request, _ in grid.of("train.hop"):
        with suppress(PacketError):
            packets.append(packet_in(request.content))
    return packets


def made(grid: Tap) -> list[Packet]:
    """What receivers made of them."""
    replies = [reply for _, reply in grid.of("train.hop") if reply is not None]
    return [packet_in(reply.content) for reply in replies if reply.has_content()]


def has_packet(message: Message) -> bool:
    """Tell whether a packet is in a message."""
    return PACKET in message.content.config_records


def chains_of(trial: Trial) -> Chains:
    """The ledger that a walk ended with, every signature checked again."""
    assert isinstance(trial.strategy, MFDWalk)
    chains = Chains()
    chains.extend(trial.strategy.replica.splitlines())
    return chains


def path_of(trial: Trial, walker: str = "w0") -> list[Entry]:
    """From the genesis to the version in force."""
    chains = chains_of(trial)
    name = next(name for name in chains.tips if name.endswith(f"#{walker}"))
    return chains.trace(chains.tips[name].version)[::-1]


def left_behind(run: RunConfig, values: Mapping[int, float]) -> tuple[Context, list[Packet]]:
    """A node at which walkers have left versions full of one value each, from 100, 300... samples.

    Parameters
    ----------
    values : mapping of int to float
        Walker to value.
    """
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), run.flat())
    start, packets = initial_tunables(run), []
    for index, value in values.items():
        first = plan_of(run).first_packet(run, start, index, ttl=9)
        changes = {name: torch.full_like(tensor, value) for name, tensor in start.items()}
        onward, _ = repack(first, changes, hop=2, samples=100 * (1 + 2 * index))
        Custody(context.state).keep(onward, RecordDict())
        packets.append(onward)
    return context, packets


def visit_of(context: Context, packet: Packet) -> Visit:
    """A visit of a packet, before any trait has seen it."""
    visit = Visit.of(context)
    visit.packet = visit.start = packet
    return visit


def options(policy: Any = "round-robin", walkers: int = 1, **traits: Any) -> dict[str, Any]:
    """Options of the walk, traits by name."""
    return {"policy": policy, "walkers": walkers, "traits": traits}
