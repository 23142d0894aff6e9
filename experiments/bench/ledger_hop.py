"""Measure what the ledger and admission add to a hop of a walk: time, and bytes.

    python experiments/bench/ledger_hop.py                     # the demo's walk, about a minute
    python experiments/bench/ledger_hop.py --tours 10 --json ledger_hop.json

Time is processor time of the thread that handles `train.hop`, in the demo's setting: all of it, and
what passes inside the node's ledger (verify what came, sign, hash, pack, keep); its cache of parsed
entries is emptied before each hop as on a machine of its own. Bytes are as Flower serialises
them: the record `ledger` beside a packet, the receipt in an acknowledgement, and one entry alone as
it is packed. What they are against is the payload of a ViT-B/16 with deep prompts and a head of
ten classes in fp32; entries do not grow with the model.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from mfd_flower.accounting.wire import measure
from mfd_flower.client_app import app
from mfd_flower.config import RunConfig
from mfd_flower.ledger import parse_entry
from mfd_flower.network.worlds import world_of
from mfd_flower.node import initial_tunables
from mfd_flower.runtime import LocalGrid, MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.strategy import build_strategy, links_of
from mfd_flower.walk.custody import FOR_SENDER as RECEIPT
from mfd_flower.walk.node_ledger import LEDGER, NodeLedger
from mfd_flower.walk.traits import ledger as ledger_trait

METHODS = ("__init__", "save", "take", "sign_version", "beside", "receipt", "refused")
POLICY = {"name": "label-balance", "memory": 9}
DAMPING = {"end": 0.2, "tours": 1.0}
VIT_BASE = {"layers": 12, "dim": 768, "classes": 10}


class Clock:
    """Thread time inside the node's ledger, and inside whole hops."""

    def __init__(self) -> None:
        self.depth = 0
        self.inside_s = 0.0
        self.hops: list[tuple[float, float]] = []

    def timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method with its outermost calls timed."""

        def call(*args: Any, **keywords: Any) -> Any:
            self.depth += 1
            start = time.thread_time()
            try:
                return method(*args, **keywords)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.inside_s += time.thread_time() - start

        return call

    def handle(self, message: Message, context: Context) -> Message:
        """Handle a message as the app does, and note what a hop took."""
        parse_entry.cache_clear()
        self.inside_s, start = 0.0, time.thread_time()
        reply = app(message, context)
        if message.metadata.message_type == "train.hop":
            self.hops.append((time.thread_time() - start, self.inside_s))
        return reply


class Scale(MeteredGrid):
    """Weighs what the ledger adds to requests."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.beside: list[int] = []
        self.receipts: list[int] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Weigh what is beside packets."""
        requests = list(messages)
        for request in requests:
            if (record := request.content.config_records.get(LEDGER)) is not None:
                self.beside.append(_wire(LEDGER, record))
        return super().push_messages(requests)

    def send_and_receive(self, messages: Iterable[Message], **how: Any) -> Iterable[Message]:
        """Weigh the receipts in acknowledgements."""
        requests = list(messages)
        for request in requests:
            if (record := request.content.config_records.get(RECEIPT)) is not None:
                self.receipts.append(_wire(RECEIPT, record))
        return super().send_and_receive(requests, **how)


def walk(tours: int, *names: str) -> dict[str, float]:
    """Return what a hop of the demo's walk takes, with these traits."""
    traits = {"damping": DAMPING, **{name: {} for name in names}}
    tables = {
        "data": {"partition": "dirichlet", "train_samples": 1000},
        "train": {"local_epochs": 3, "logit_adjustment": 1.0},
        "strategy": {"rounds": tours, "options": json.dumps({"policy": POLICY, "traits": traits})},
    }
    run, clock = RunConfig.from_tables(tables), Clock()
    strategy = build_strategy(run)
    plain: list[tuple[Any, str, Any]] = [
        (NodeLedger, name, getattr(NodeLedger, name)) for name in METHODS
    ]
    plain.append((ledger_trait, "dropped", ledger_trait.dropped))
    for home, name, function in plain:
        setattr(home, name, clock.timed(function))
    try:
        with LocalGrid(clock.handle, run.data.nodes, run.flat()) as inner:  # type: ignore[arg-type]
            addresses = call_roll(inner, run.data.nodes)
            world = world_of(run.network, run.data.nodes, run.seed)
            grid = Scale(inner, links_of(type(strategy), run), world, addresses)
            strategy.start(grid, ArrayRecord(dict(initial_tunables(run))), num_rounds=tours)
    finally:
        for home, name, function in plain:
            setattr(home, name, function)
    hop_s = statistics.mean(hop for hop, _ in clock.hops)
    notary_s = statistics.mean(inside for _, inside in clock.hops)
    found = {"hop ms": 1e3 * hop_s, "notary ms": 1e3 * notary_s, "share %": 1e2 * notary_s / hop_s}
    if not grid.beside:
        return found
    lines = str(getattr(strategy, "replica", "")).splitlines()
    packed = [len(zlib.compress(line.encode(), 9)) for line in lines[1:]]
    return found | {
        "bytes beside a packet": statistics.mean(grid.beside),
        "the same, last tour": statistics.mean(grid.beside[-run.data.nodes :]),
        "bytes of a receipt": statistics.mean(grid.receipts),
        "bytes of an entry, packed": statistics.mean(packed),
    }


def shares(found: dict[str, float]) -> dict[str, float]:
    """Return the ledger's bytes against the payloads of ViT-B/16, in per cent."""
    hop = found["bytes beside a packet"] + found["bytes of a receipt"]
    shown = {}
    for prompts in (10, 50):
        head = (VIT_BASE["dim"] + 1) * VIT_BASE["classes"]
        payload = 4 * (VIT_BASE["layers"] * prompts * VIT_BASE["dim"] + head)
        shown[f"{prompts} prompts, payload bytes"] = float(payload)
        shown[f"{prompts} prompts, all of a hop %"] = 1e2 * hop / payload
        shown[f"{prompts} prompts, one entry %"] = (
            1e2 * found["bytes of an entry, packed"] / payload
        )
    return shown


def _wire(name: str, record: ConfigRecord) -> int:
    """Return the bytes that a record adds to a message."""
    return measure(RecordDict({name: record})).wire - measure(RecordDict()).wire


def main() -> None:
    """Print the costs, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description="Cost of the ledger and of admission for a hop.")
    parser.add_argument("--tours", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    walk(1)  # Loads and caches what later runs share.
    found: dict[str, dict[str, float]] = {
        "plain": walk(args.tours),
        "ledger": walk(args.tours, "ledger"),
        "ledger and admission": walk(args.tours, "ledger", "admission"),
    }
    found["against ViT-B/16"] = shares(found["ledger"])
    for name, numbers in found.items():
        print(name)
        for what, number in numbers.items():
            print(f"  {what:<32}{number:>12.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
