"""Entries of the ledger: who made which version from which parent, signed by the one who did.

Whitepaper, section 2.6: every round's model can be verified, audited and traced. An `Entry` that
exists has valid fields, from wherever it came; whether it fits its chain and is signed by whom it
says, `chains` decides. One entry has one text: its fields as sorted compact JSON, those that are
empty left out, and the author's signature of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from mfd_flower.ledger.fields import (
    LedgerError,
    dump_json,
    load_json,
    malformed,
    number,
    show,
    whole,
)
from mfd_flower.ledger.kinds import (
    ALLOWED,
    KIND_FIELDS,
    NEEDED,
    check_texts,
    checked_members,
    checked_parents,
)

if TYPE_CHECKING:
    from torch import Tensor

PROTOCOL = 1
MAX_ENTRY_CHARS = 1 << 20
MAX_HOPS = 2**31 - 1
HEAD, MIDDLE, TAIL = '{"entry":', ',"signature":"', '"}'


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One signed statement in a chain.

    Parameters
    ----------
    protocol : int
        Version of this format.
    kind : str
        ``genesis``, ``version``, ``join``, ``leave``, ``refusal`` or ``readmission``.
    model_id, walker : str
        The chain that the entry belongs to.
    place : int
        Number in its chain, from 0.
    prev : str
        Hash of the entry before it; empty in a genesis.
    author, key : str
        Address of the writer, and the first 16 digits of its public key.
    time_s : float
        Virtual or wall time; never less than that of the entry before.
    hop, samples, size_bytes : int
        Number of the hop, samples that the walk has trained on, bytes of the packet.
    version : str
        Digest of the tunables (`packets.version_digest`): made, founded on or refused here.
    parents : tuple of str
        The version it was made from; in a merge also the one of another chain.
    accuracy_before, accuracy_after : float, optional
        On the author's local data, from 0 to 1.
    subject, subject_key : str
        Who joins, leaves, is refused or readmitted; the public key of one who joins.
    reason : str
        Why.
    members : mapping of str to str
        Public key of each address that founds the collaboration set, in a genesis.
    receiver, receipt : str
        A node other than the author that took over the entry before, and its counter-signature.
    signature : str
        The author's, over everything above.

    Raises
    ------
    LedgerError
        ``malformed``, if a field has the wrong type or bounds or has no place in this kind.
    """

    protocol: int = PROTOCOL
    kind: str
    model_id: str
    walker: str
    place: int
    prev: str = ""
    author: str
    key: str
    time_s: float
    hop: int = 0
    samples: int = 0
    size_bytes: int = 0
    version: str = ""
    parents: tuple[str, ...] = ()
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    subject: str = ""
    subject_key: str = ""
    reason: str = ""
    members: Mapping[str, str] = field(default_factory=dict)
    receiver: str = ""
    receipt: str = ""
    signature: str

    def __post_init__(self) -> None:
        """Check every field; lists become tuples, numbers floats, mappings sorted dicts."""
        whole("protocol", self.protocol, PROTOCOL, PROTOCOL)
        check_texts(self.__dict__)
        genesis = self.kind == "genesis"
        whole("place", self.place, 0 if genesis else 1, 0 if genesis else 2**63 - 1)
        if genesis == bool(self.prev):
            raise malformed("prev", self.prev, "empty in a genesis and nowhere else")
        self._set("time_s", number("time_s", self.time_s))
        whole("hop", self.hop, most=MAX_HOPS)
        whole("samples", self.samples)
        whole("size_bytes", self.size_bytes)
        self._check_kind()
        for name in ("accuracy_before", "accuracy_after"):
            if (accuracy := getattr(self, name)) is not None:
                self._set(name, number(name, accuracy, 1))
        if bool(self.receiver) != bool(self.receipt) or self.receiver == self.author:
            raise malformed("receiver", self.receiver, "another than the author, with a receipt")
        self._set("parents", checked_parents(self.parents))
        self._set("members", checked_members(self.members))

    @cached_property
    def chain(self) -> str:
        """Name of the chain that the entry belongs to."""
        return chain_name(self.model_id, self.walker)

    @cached_property
    def body(self) -> str:
        """The text that the author signs."""
        found = self.__dict__
        # Zero is a value; whatever else counts as false in Python is empty.
        return dump_json({name: v for name in BODY_FIELDS if (v := found[name]) or v == 0})

    @cached_property
    def text(self) -> str:
        """The one text that stands for this entry."""
        return f"{HEAD}{self.body}{MIDDLE}{self.signature}{TAIL}"

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the text: what the next entry names, 64 hexadecimal digits."""
        return text_hash(self.text)

    def check_tensors(
        self, tensors: Mapping[str, Tensor], kept: Mapping[str, str] | None = None
    ) -> None:
        """Compare tunables with the version that the entry names.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            All tunables, or after a partial update those that changed.
        kept : mapping of str to str, optional
            Leaf digests (`packets.leaf_digests`) of the others, or of all before the update.

        Raises
        ------
        LedgerError
            ``tensors``, if any name, dtype, shape or bit is another.
        """
        from mfd_flower.packets.digest import leaf_digests, merkle_root

        found = merkle_root({**(kept or {}), **leaf_digests(tensors)})
        if found != self.version:
            said = f"version = {self.version[:12]}...: the tunables are {found[:12]}..."
            raise LedgerError("tensors", said)

    def _check_kind(self) -> None:
        needed = NEEDED[self.kind]
        found = self.__dict__
        filled = {name for name in KIND_FIELDS if (v := found[name]) or v == 0}
        if missing := needed - filled:
            raise LedgerError("malformed", f"{min(missing)}: missing in a {self.kind} entry")
        if strange := filled - needed - ALLOWED[self.kind]:
            name = min(strange)
            raise malformed(name, found[name], f"absent in a {self.kind} entry")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@lru_cache(maxsize=4096)
def parse_entry(text: str) -> Entry:
    """Read an entry from its one text; its signature is not checked here.

    A text that was read lately is not read again, since the nodes of a simulation share most.

    Raises
    ------
    LedgerError
        ``malformed``, if this is not exactly what `Entry.text` writes.
    """
    if len(text) > MAX_ENTRY_CHARS:
        said = f"{len(text)} characters, at most {MAX_ENTRY_CHARS} are accepted"
        raise LedgerError("malformed", said)
    cut = len(text) - len(TAIL) - 128
    start = cut - len(MIDDLE)
    if not text.startswith(HEAD) or text[start:cut] != MIDDLE or not text.endswith(TAIL):
        raise LedgerError("malformed", "does not begin and end as an entry does")
    values = load_json("entry", text[len(HEAD) : start])
    if unknown := values.keys() - BODY_FIELDS:
        raise LedgerError("malformed", f"{show(min(unknown))}: not a field of an entry")
    if missing := REQUIRED_FIELDS - values.keys():
        raise LedgerError("malformed", f"{min(missing)}: missing")
    entry = Entry(**values, signature=text[cut : -len(TAIL)])
    if entry.text != text:
        raise LedgerError("malformed", "spelled in another way than sorted, compact JSON")
    return entry


def text_hash(text: str) -> str:
    """Return the hash of an entry's text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def chain_name(model_id: str, walker: str) -> str:
    """Return the name of a chain; neither half can have the sign between them."""
    return f"{model_id}#{walker}"


BODY_FIELDS = dict.fromkeys(sorted({part.name for part in fields(Entry)} - {"signature"})).keys()
REQUIRED_FIELDS = BODY_FIELDS - {"prev", *KIND_FIELDS}
