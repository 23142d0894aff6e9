"""A node's ledger: what it reads from its replica and writes to it when a packet passes.

Whitepaper, section 2.6: every version can be verified and traced. A node's replica lies in its
Flower state as the lines that it has verified, so no signature is checked twice; a packet brings
the lines that its receiver lacks. Nothing is kept before `save`, which comes after custody.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import dropwhile
from typing import Any

from flwr.app import ConfigRecord, Context, RecordDict

from mfd_flower.ledger import (
    Chains,
    Entry,
    LedgerError,
    Tip,
    check_receipt,
    countersign,
    follow,
    found,
    key_of,
    packed,
    public_key,
    receive,
    suffix,
    unpacked,
)
from mfd_flower.ledger.entry import chain_name
from mfd_flower.node import Node
from mfd_flower.packets import Packet
from mfd_flower.records import text

LEDGER, RECEIPT = "ledger", "receipt"
SETTLED_BEHIND = 3
"""Other authors after an entry from which on it counts as one that no recovery undoes."""
REFUSALS_TO_DROP = 2
KEPT_CHAINS = 64
_kept: dict[tuple[int, int], tuple[str, Chains]] = {}
"""Chains of this process's nodes, beside the lines that they were made from."""
key_of_node = functools.lru_cache(maxsize=4096)(key_of)


class NodeLedger:
    """A node's replica while one message is handled: `chains`, one a walker."""

    def __init__(self, node: Node, context: Context) -> None:
        self.address = node.address
        self._key = key_of_node(node.run.seed, node.address)
        self.members = members(node.run.seed, node.run.data.nodes)
        self._state = context.state
        self._place = (context.run_id, context.node_id)
        record = context.state.config_records.get(LEDGER)
        self._lines = text(record, "lines") if record else ""
        lines, chains = _kept.pop(self._place, ("", None))
        if chains is None or lines != self._lines:
            chains = Chains(self._lines.split("\n")[:-1], members=self.members)
        self.chains = chains
        self._saved = len(chains.entries)
        self._owed: dict[str, str] = {}

    def save(self) -> None:
        """Keep what was verified and written."""
        new = "".join(entry.text + "\n" for entry in self.chains.entries[self._saved :])
        self._lines, self._saved = self._lines + new, len(self.chains.entries)
        if new:
            self._state[LEDGER] = ConfigRecord({"lines": self._lines})
        while len(_kept) >= KEPT_CHAINS:
            _kept.pop(next(iter(_kept)), None)
        _kept[self._place] = (self._lines, self.chains)

    def take(self, packet: Packet, content: RecordDict) -> Entry:
        """Verify what came beside a packet; returns the entry that made its version.

        The version must be the one in force. Whoever is the first to hold a walker founds its
        chain. Nothing is kept after a `LedgerError`, whose reasons are in ``docs/ledger.md``.
        """
        chain, record = chain_of(packet), content.config_records.get(LEDGER)
        if record is not None:
            self._receive(chain, record)
        elif packet.hop == 1 and chain not in self.chains.tips:
            size = _payload_bytes(packet)
            told = {"model_id": packet.model_id, "walker": packet.walker, "version": packet.version}
            genesis = found(
                self._key, author=self.address, members=self.members, size_bytes=size, **told
            )
            self.chains.extend([genesis.text])
        tip = self.chains.tips.get(chain)
        if tip is None:
            raise LedgerError("missing", f"{chain}: no entry of it came along")
        if tip.version != packet.version:
            said = f"the version in force is {tip.version[:12]}..."
            raise LedgerError("replay", f"version = {packet.version[:12]}...: {said}")
        if record is not None and "receipt" in record:
            owed = {name: text(record, name) for name in ("receiver", "receipt")}
            check_receipt(tip, tip.hash, **owed)
            self._owed = owed if owed["receiver"] != self.address else {}
        return self.maker(packet)

    def maker(self, packet: Packet, version: str = "") -> Entry:
        """Return the entry that made a packet's version, or another `version` of its chain."""
        chain, version = chain_of(packet), version or packet.version
        made = self.chains.maker(chain, version)
        if made is None:
            raise LedgerError("unknown-version", f"version = {version[:12]}...: not in {chain}")
        return made

    def refused(self, version: str, by: str = "") -> bool:
        """Tell whether a version was refused, by anybody or by one node."""
        return any(by in ("", entry.author) for entry in self.chains.refusals(version))

    def settled(self, chain: str) -> Entry | None:
        """Return the newest entry that three nodes have built on, None if there is none.

        When holders vanish a walk resumes before them, so what few have seen may be undone.
        """
        entry, behind = self.chains.find(self.chains.tips[chain].hash), set[str]()
        while entry is not None and len(behind | {entry.author}) <= SETTLED_BEHIND:
            behind.add(entry.author)
            entry = self.chains.find(entry.prev)
        return entry

    def is_unconfirmed(self, made: Entry) -> bool:
        """Tell whether nobody but its author has built on the version that an entry made."""
        authors = {entry.author for entry in self.made_of(made.version)}
        return made.kind == "version" and authors <= {made.author}

    def made_of(self, version: str) -> list[Entry]:
        """Return the entries of versions that were made of this one."""
        entries = (entry for entry in self.chains.entries if entry.kind == "version")
        return [entry for entry in entries if entry.parents[0] == version]

    def knows(self, version: str) -> bool:
        """Tell whether a version was made before: nobody can make it anew."""
        return any(self.chains.maker(chain, version) for chain in self.chains.tips)

    def sign_version(
        self,
        arrived: Packet,
        onward: Packet,
        merged: Collection[str] = (),
        claims: Mapping[str, float] = {},
    ) -> None:
        """Write that this node made `onward` out of `arrived`; nothing if nothing is new in it.

        `arrived` has the version in force. The last of the `merged` versions of other walkers is
        the second parent; `claims` are further fields of the entry: accuracies on local data.
        """
        if self.knows(onward.version):
            return
        tip = self._tip(arrived)
        others = [version for version in merged if self.knows(version) and version != tip.version]
        self._write(
            tip,
            version=onward.version,
            parents=(tip.version, *others[-1:]),
            hop=arrived.hop,
            time_s=float(arrived.hop),
            samples=onward.samples,
            size_bytes=_payload_bytes(onward),
            **claims,
        )

    def refuse(self, arrived: Packet, reason: str) -> None:
        """Write that the version in force is refused: its parent is in force again."""
        told = {"subject": self.maker(arrived).author, "reason": reason}
        self._write(self._tip(arrived), kind="refusal", version=arrived.version, **told)

    def void(self, sent: Packet, receiver: str) -> None:
        """Write that a version that was sent goes elsewhere: what its receiver made counts not."""
        if not self.voided(sent, sent.version, receiver):
            self._write(self._tip(sent), kind="void", version=sent.version, subject=receiver)

    def voided(self, packet: Packet, version: str, subject: str, by: str = "") -> bool:
        """Tell whether a packet's chain voids what `subject` made of a version, by its sender."""
        chain = chain_of(packet)
        return any(
            entry.kind == "void"
            and (entry.chain, entry.version, entry.subject) == (chain, version, subject)
            and by in ("", entry.author)
            for entry in reversed(self.chains.entries)
        )

    def beside(self, packet: Packet, whole: bool) -> ConfigRecord:
        """Return what travels beside a packet: the head, and the lines that its receiver lacks.

        When the receiver last wrote an entry it had all before it. Of other chains it needs
        something only if walkers merged. `whole` is for a receiver that could not attach less.
        """
        tip = self._tip(packet)
        since: dict[str, str] = {}
        for entry in () if whole else reversed(self.chains.entries):
            if entry.author == packet.destination:
                since.setdefault(entry.chain, entry.hash)
        if not any(len(entry.parents) > 1 for entry in self.chains.entries):
            chain, tips = chain_of(packet), self.chains.tips
            since |= {name: held.hash for name, held in tips.items() if name != chain}
        record: dict[str, Any] = {"head": tip.hash}
        if lines := suffix(self.chains, since):
            record["lines"] = packed(lines)
        kept = self._state.config_records.get(f"{RECEIPT}/{packet.walker}", ConfigRecord())
        if kept.get("entry") == tip.hash and kept["receiver"] != packet.destination:
            record |= {"receiver": kept["receiver"], "receipt": kept["receipt"]}
        return ConfigRecord(record)

    def receipt(self, entry_hash: str) -> ConfigRecord:
        """Sign for an entry that was taken over."""
        signed = countersign(self._key, entry_hash, self.address)
        return ConfigRecord({"entry": entry_hash, "receiver": self.address, "receipt": signed})

    def keep_receipt(self, told: Mapping[str, Any], walker: str) -> None:
        """Keep a receipt, if it is good, for an entry until the receiver's own entry is seen."""
        entry = self.chains.find(text(told, "entry"))
        if entry is None:
            raise LedgerError("missing", "receipt: for an entry that is not here")
        tip = self.chains.tips[entry.chain]
        check_receipt(tip, entry.hash, text(told, "receiver"), told["receipt"])
        names = ("entry", "receiver", "receipt")
        self._state[f"{RECEIPT}/{walker}"] = ConfigRecord({n: text(told, n) for n in names})

    def _receive(self, chain: str, record: ConfigRecord) -> None:
        head, lines = text(record, "head"), unpacked(record.get("lines", b""))
        try:
            receive(self.chains, lines, head=head)
            return
        except LedgerError as error:
            if error.reason != "fork":
                raise
            reached = self.chains.tips.get(chain)
            if reached is None:
                raise
        # This node, or the one it had its last entry from, was cut off, and the walk went on.
        left = self._unconfirmed(chain)
        texts = [entry.text for entry in self.chains.entries if entry.hash not in left]
        rest = Chains(texts, members=self.members)
        receive(rest, lines, head=head)
        if rest.tips[chain].place < reached.place:
            raise LedgerError("fork", f"{chain}: another branch, and a shorter one")
        self.chains, self._saved, self._lines = rest, 0, ""

    def _unconfirmed(self, chain: str) -> set[str]:
        """Return the last entries of a chain that nobody but author and this node signed for."""
        entries = [entry for entry in reversed(self.chains.entries) if entry.chain == chain]
        others = list(dropwhile(lambda entry: entry.author == self.address, entries))
        rest = list(dropwhile(lambda entry: entry.author == others[0].author, others))
        return {entry.hash for entry in entries[: len(entries) - len(rest)]}

    def _tip(self, packet: Packet) -> Tip:
        return self.chains.tips[chain_of(packet)]

    def _write(self, tip: Tip, **fields: Any) -> None:
        entry = follow(self._key, tip, author=self.address, **fields, **self._owed)
        self.chains.extend([entry.text])
        self._owed = {}


def dropped(entries: Iterable[Entry]) -> set[str]:
    """Return the authors whose versions were refused twice in a row, until they are readmitted.

    One refusal may be the level of a test, a second makes that unlikely. Who builds on a version
    has accepted it.
    """
    in_a_row, author_of = Counter[str](), dict[tuple[str, str], str]()
    for entry in entries:
        if entry.kind == "version":
            author_of[entry.chain, entry.version] = entry.author
            parent = author_of.get((entry.chain, entry.parents[0]), "")
            if in_a_row[parent] < REFUSALS_TO_DROP:
                in_a_row[parent] = 0
        elif entry.kind == "refusal":
            in_a_row[entry.subject] += 1
        elif entry.kind == "readmission":
            in_a_row[entry.subject] = 0
    return {address for address, count in in_a_row.items() if count >= REFUSALS_TO_DROP}


@functools.lru_cache(maxsize=8)
def members(seed: int, nodes: int) -> Mapping[str, str]:
    """Return the collaboration set of a simulated federation: all nodes, with their keys."""
    return {f"n{i}": public_key(key_of_node(seed, f"n{i}")) for i in range(nodes)}


def chain_of(packet: Packet) -> str:
    """Return the name of the chain that a packet's versions are written in."""
    return chain_name(packet.model_id, packet.walker)


def _payload_bytes(packet: Packet) -> int:
    return sum(tensor.nbytes for tensor in packet.payload.values())
