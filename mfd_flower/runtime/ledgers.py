"""The ledger of a run, for the experimenter: its versions, how admission did, and a file of it.

Only here is it known both which nodes are malicious and what the nodes decided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mfd_flower.files import slug
from mfd_flower.ledger import Chains, Entry, Ledger

LEDGERS = "ledgers"
"""Folder in that of the results."""
SHORT = 16
"""Digits by which a version is named in results."""
KEPT = ("walker", "author", "hop", "samples", "accuracy_before", "accuracy_after")
"""What results keep of an entry as it is."""


def entries_of(lines: str) -> list[Entry]:
    """Return the entries of a replica; every signature is checked again."""
    chains = Chains()
    chains.extend(lines.splitlines())
    return chains.entries


def versions_of(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return the versions of a run with their parents, the refused ones with why and by whom."""
    versions: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        if entry.kind in ("genesis", "version"):
            versions[entry.chain, entry.version] = {
                "version": entry.version[:SHORT],
                "parents": [parent[:SHORT] for parent in entry.parents],
                **{name: getattr(entry, name) for name in KEPT},
                "refused_by": "",
                "reason": "",
            }
        elif entry.kind == "refusal":
            told = {"refused_by": entry.author, "reason": entry.reason}
            versions[entry.chain, entry.version] |= told
    return list(versions.values())


def admission_counts(
    versions: Iterable[Mapping[str, Any]],
    poisoners: Collection[str],
    not_taken: Iterable[tuple[str, int, str]] = (),
) -> dict[str, int]:
    """Count honest and poisoned versions that were accepted and refused.

    Of those of `versions_of` all but the first ones of the chains were judged. `poisoners` are the
    addresses of the malicious nodes; `not_taken` has walker, hop and sender of packets that no
    receiver could take.
    """
    ends = ("honest_accepted", "honest_refused", "poisoned_accepted", "poisoned_refused")
    counts = dict.fromkeys(ends, 0)
    judged = [(v["author"], bool(v["reason"])) for v in versions if v["parents"]]
    for author, refused in [*judged, *((sender, True) for _, _, sender in not_taken)]:
        kind = "poisoned" if author in poisoners else "honest"
        counts[f"{kind}_{'refused' if refused else 'accepted'}"] += 1
    return counts


def write_ledger(folder: Path, record: Mapping[str, Any], number: int, lines: str) -> str:
    """Write the ledger of a run, the `number`-th, for ``mfd ledger``; returns the path inside."""
    words = f"{number} {record['scenario']} {record['strategy']} seed {record['seed']}"
    name = f"{LEDGERS}/{slug(words)}.sqlite"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    # Of an earlier start of the same run; SQLite may have left files beside it.
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    with Ledger(path) as ledger:
        ledger.receive(lines)
    return name
