"""The chains of a ledger in memory: every entry is held against all before it, then kept.

One chain a walk: several walkers of one model have one each, and where two of them merge, the entry
has a parent in both. A chain has one writer at a time, the holder of the walker's packet; so two
entries at one place are a fork, however often a packet was sent. Checking an entry costs the same
however long its chain is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mfd_flower.ledger.entry import Entry, LedgerError, parse_entry, text_hash
from mfd_flower.ledger.keys import signed_by
from mfd_flower.ledger.writing import ENTRY, Tip, check_receipt


class Chains:
    """Verified chains, and where each stands.

    `texts` are entries that this node itself verified and kept earlier, in the order it kept them.
    Fields and order are checked again, signatures are not. `members` is the founding collaboration
    set, if known from elsewhere. Without it the first genesis that arrives is believed; all later
    ones must have the same set.
    """

    def __init__(
        self, texts: Iterable[str] = (), *, members: Mapping[str, str] | None = None
    ) -> None:
        self.entries: list[Entry] = []
        """In the order they were kept, which differs from node to node only between chains."""
        self.tips: dict[str, Tip] = {}
        """By name of the chain, ``<model_id>#<walker>``."""
        self._founders = members
        self._by_hash: dict[str, Entry] = {}
        self._by_place: dict[tuple[str, int], Entry] = {}
        self._made: dict[tuple[str, str], Entry] = {}
        self._refusals: dict[str, list[Entry]] = {}
        self._keep(list(texts), check_signatures=False)

    def extend(self, texts: Sequence[str]) -> list[Entry]:
        """Verify entries of unknown origin and keep them: all, or none if one is wrong.

        `LedgerError` for the first that is wrong; its `entry` is the number in `texts`.
        """
        return self._keep(texts, check_signatures=True)

    def has(self, entry_hash: str) -> bool:
        """Tell whether an entry is here."""
        return entry_hash in self._by_hash

    def find(self, entry_hash: str) -> Entry | None:
        """Return the entry of this hash, None if it is not here."""
        return self._by_hash.get(entry_hash)

    def maker(self, chain: str, version: str) -> Entry | None:
        """Return the entry that made a version of a chain, None if it is not here."""
        return self._made.get((chain, version))

    def refusals(self, version: str) -> Sequence[Entry]:
        """Return the entries that refuse a version."""
        return self._refusals.get(version, ())

    def trace(self, version: str) -> list[Entry]:
        """Return the entries that made `version`, newest first, down to W0.

        Of a merge the path goes on with the first parent, the one of its own chain. `LedgerError`
        ``unknown-version`` if no entry made it.
        """
        chain = next((name for name in self.tips if (name, version) in self._made), None)
        if chain is None:
            raise LedgerError("unknown-version", f"version = {version[:64]}: not in this ledger")
        path = [self._made[chain, version]]
        while path[-1].parents:
            path.append(self._made[chain, path[-1].parents[0]])
        return path

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Forget what was kept inside if an error leaves it."""
        count, tips = len(self.entries), dict(self.tips)
        try:
            yield
        except BaseException:
            for entry in self.entries[count:]:
                del self._by_hash[entry.hash], self._by_place[entry.chain, entry.place]
                if entry.kind in ("genesis", "version"):
                    del self._made[entry.chain, entry.version]
                elif entry.kind == "refusal":
                    self._refusals[entry.version].remove(entry)
            del self.entries[count:]
            self.tips = tips
            raise

    def _keep(self, texts: Sequence[str], check_signatures: bool) -> list[Entry]:
        count = len(self.entries)
        with self.all_or_none():
            for number, text in enumerate(texts):
                try:
                    entry = parse_entry(text)
                    tip = self._next_tip(entry, check_signatures)
                except LedgerError as error:
                    reason, said = error.reason, str(error)
                    if reason == "missing" and entry.prev in map(text_hash, texts[number + 1 :]):
                        reason, said = "order", f"{said}; it comes later"
                    raise LedgerError(reason, said, number) from None
                self.entries.append(entry)
                self.tips[entry.chain] = tip
                self._by_hash[entry.hash] = self._by_place[entry.chain, entry.place] = entry
                if entry.kind in ("genesis", "version"):
                    self._made[entry.chain, entry.version] = entry
                elif entry.kind == "refusal":
                    self._refusals.setdefault(entry.version, []).append(entry)
        return self.entries[count:]

    def _next_tip(self, entry: Entry, check_signatures: bool) -> Tip:
        """Return where the chain stands after `entry`, which must fit it in every way."""
        tip = self.tips.get(entry.chain)
        if tip is None and entry.kind != "genesis":
            at = f"place {entry.place} of {entry.chain}"
            raise LedgerError("missing", f"{at}: the genesis of the chain is missing")
        keys = tip.keys if tip else entry.members
        _check_author(entry, keys, check_signatures)
        newest = (entry.place, entry.hash, entry.author, entry.hop, entry.time_s)
        stands = (entry.model_id, entry.walker, *newest)
        if tip is None:
            first = self.entries[0].members if self.entries else entry.members
            if entry.members != dict(first if self._founders is None else self._founders):
                said = f"members of {entry.chain}: not the collaboration set of this ledger"
                raise LedgerError("members", said)
            return Tip(*stands, entry.version, entry.members, keys, entry.author)
        self._check_place(entry, tip)
        if entry.author not in tip.members:
            raise LedgerError("unknown-author", f"author = {entry.author}: left before this entry")
        for reason, name in (("clock", "time_s"), ("order", "hop")):
            if (now := getattr(entry, name)) < (least := getattr(tip, name)):
                said = f"{name} = {now}: must be at least {least}, of the entry before"
                raise LedgerError(reason, said)
        if entry.receiver and check_signatures:
            check_receipt(tip, tip.hash, entry.receiver, entry.receipt)
        members = _members_after(entry, tip)
        if members is not tip.members:
            keys = {**keys, **members}
        return Tip(*stands, self._version_after(entry, tip), members, keys, tip.founder)

    def _check_place(self, entry: Entry, tip: Tip) -> None:
        at = f"place {entry.place} of {entry.chain}"
        if here := self._by_place.get((entry.chain, entry.place)):
            if here.hash == entry.hash:
                raise LedgerError("replay", f"{at}: this entry is here already")
            both = f"{here.author} and {entry.author} wrote different entries"
            wrote = f"{entry.author} wrote two entries" if here.author == entry.author else both
            raise LedgerError("fork", f"{at}: {wrote}, {here.hash[:12]}... is here")
        if entry.place > tip.place + 1:
            raise LedgerError("missing", f"{at}: place {tip.place + 1} is missing")
        if entry.prev != tip.hash:
            said = f"follows {entry.prev[:12]}..., but place {tip.place} is {tip.hash[:12]}..."
            raise LedgerError("fork", f"{at}: {said}")

    def _version_after(self, entry: Entry, tip: Tip) -> str:
        """Return the version that is in force after `entry`."""
        if entry.kind == "version":
            self._check_parents(entry, tip)
            return entry.version
        if entry.kind == "void" and entry.version != tip.version:
            said = f"must be {tip.version[:12]}..., the version in force"
            raise LedgerError("parent", f"version = {entry.version[:12]}...: {said}")
        if entry.kind != "refusal":
            return tip.version
        refused = self._made[entry.chain, tip.version]
        if entry.version != tip.version or not refused.parents:
            said = "must be the version in force, and not the first of the chain"
            raise LedgerError("parent", f"version = {entry.version[:12]}...: {said}")
        if entry.subject != refused.author:
            said = f"must be {refused.author}, who made the refused version"
            raise LedgerError("parent", f"subject = {entry.subject}: {said}")
        return refused.parents[0]

    def _check_parents(self, entry: Entry, tip: Tip) -> None:
        if (entry.chain, entry.version) in self._made:
            said = f"version = {entry.version[:12]}...: was made before, it is no new one"
            raise LedgerError("replay", said)
        if entry.parents[0] != tip.version:
            said = f"must be {tip.version[:12]}..., the version in force"
            raise LedgerError("parent", f"parents = {entry.parents[0][:12]}...: {said}")
        for parent in entry.parents[1:]:
            others = (n for n, t in self.tips.items() if t.model_id == tip.model_id)
            if not any((name, parent) in self._made for name in others if name != entry.chain):
                said = f"parents = {parent[:12]}...: no other chain of this model here made it"
                raise LedgerError("parent", said)


def _check_author(entry: Entry, keys: Mapping[str, str], check_signatures: bool) -> None:
    if (public := keys.get(entry.author)) is None:
        raise LedgerError(
            "unknown-author", f"author = {entry.author}: not in the collaboration set"
        )
    if entry.key != public[:16]:
        raise LedgerError("wrong-key", f"key = {entry.key}: {entry.author} has {public[:16]}")
    if check_signatures and not signed_by(public, ENTRY, entry.body, entry.signature):
        said = f"place {entry.place} of {entry.chain}: not as the key of {entry.author} signed it"
        raise LedgerError("altered", said)


def _members_after(entry: Entry, tip: Tip) -> Mapping[str, str]:
    """Return the collaboration set after `entry`; the same object if it does not change."""
    if entry.kind == "join":
        if entry.subject in tip.members:
            raise LedgerError("members", f"subject = {entry.subject}: is a member already")
        return {**tip.members, entry.subject: entry.subject_key}
    if entry.kind in ("leave", "readmission") and entry.subject not in tip.members:
        raise LedgerError("members", f"subject = {entry.subject}: is no member")
    if entry.kind != "leave":
        return tip.members
    if entry.author not in (entry.subject, tip.founder):
        said = f"subject = {entry.subject}: only itself or {tip.founder}, the founder, may say so"
        raise LedgerError("members", said)
    return {name: public for name, public in tip.members.items() if name != entry.subject}
