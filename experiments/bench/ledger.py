"""Measure what a ledger of model versions costs: to write, to verify, to send on.

    python experiments/bench/ledger.py                        # 1,000 and 10,000 entries
    python experiments/bench/ledger.py --entries 100 --json ledger.json

One core; `verify`, `open` and the bare signature are processor time, the others wall time. An entry
cannot be verified in less than its Ed25519 signature takes; `over bare signatures` is the time of
`Ledger.verify` over that of checking as many signatures with nothing around it, in the same run.
`append` is one entry, one transaction, one sync of the disk; `receive` and `suffix` are what a hop
of one entry costs a node that holds all the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mfd_flower.ledger import Chains, Ledger, example_ledger, follow, key_of, parse_entry, receive
from mfd_flower.ledger.example import NODES, example_version
from mfd_flower.ledger.keys import signed_by
from mfd_flower.ledger.writing import ENTRY

HOPS = 200
"""Entries written one by one after the others."""


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time that `work` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(path: Path, entries: int) -> dict[str, float]:
    """Return seconds and bytes of a ledger of that many entries."""
    ledger = example_ledger(path, entries)
    stored = ledger.entries()
    members = stored[0].members
    some = stored[:1000]

    def bare() -> None:
        for entry in some:
            signed_by(members[entry.author], ENTRY, entry.body, entry.signature)

    # They take turns, so that load from elsewhere falls on both alike.
    bare_s, verify_s = [], []
    for _ in range(3):
        bare_s.append(seconds(bare) / len(some))
        # As on a machine where nobody has read these texts before.
        parse_entry.cache_clear()
        verify_s.append(seconds(ledger.verify))
    replica = Chains(entry.text for entry in stored)
    sign_s = append_s = suffix_s = receive_s = 0.0
    for number in range(entries, entries + HOPS):
        start = time.perf_counter()
        author = NODES[number % len(NODES)]
        tip = ledger.tip("example")
        assert tip is not None
        entry = follow(
            key_of(0, author),
            tip,
            author=author,
            hop=number,
            version=example_version(number),
            accuracy_before=0.9,
            accuracy_after=0.91,
            samples=75 * number,
            size_bytes=8192,
        )
        signed = time.perf_counter()
        parse_entry.cache_clear()
        ledger.append(entry)
        appended = time.perf_counter()
        text = ledger.suffix(tip.hash)
        cut = time.perf_counter()
        parse_entry.cache_clear()
        receive(replica, text, head=entry.hash)
        sign_s += signed - start
        append_s += appended - signed
        suffix_s += cut - appended
        receive_s += time.perf_counter() - cut
    ledger.close()
    parse_entry.cache_clear()
    return {
        "entries": entries,
        "bytes an entry": sum(len(entry.text) for entry in stored) / entries,
        "verify s": min(verify_s),
        "over bare signatures": min(verify_s) / (min(bare_s) * entries),
        "bare signature ms": 1e3 * min(bare_s),
        "open ms": 1e3 * seconds(lambda: Ledger(path).head),
        "sign ms": 1e3 * sign_s / HOPS,
        "append ms": 1e3 * append_s / HOPS,
        "suffix ms": 1e3 * suffix_s / HOPS,
        "receive ms": 1e3 * receive_s / HOPS,
    }


def main() -> None:
    """Print the costs, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description="Cost of the ledger on one core.")
    parser.add_argument("--entries", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    found = []
    for entries in args.entries:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder) / "ledger.sqlite", entries))
    for name in found[0]:
        print(f"{name:<22}" + "".join(f"{numbers[name]:>12.3f}" for numbers in found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
