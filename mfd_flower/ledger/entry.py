"""Entries of the ledger: who made which version from which parent, signed by the one who did.

Whitepaper, section 2.6: every round's model can be verified, audited and traced. An `Entry` that
exists has valid fields, from wherever it came; whether it fits its chain and is signed by whom it
says, `chain` decides. One entry has one text: its fields as sorted compact JSON, those that are
empty left out, and the author's signature of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Annotated

from mfd_flower.canonical_json import dump_json, load_json
from mfd_flower.checks import Bounds, Form, Length, check_fields, check_names, refusal_line
from mfd_flower.names import Address, Digest, ModelId, Walker

PROTOCOL = 1
MAX_ENTRY_CHARS = 1 << 20
MAX_MEMBERS = 4096
HEAD, MIDDLE, TAIL = '{"entry":', ',"signature":"', '"}'
SIGNATURE_CHARS = 128
KINDS = {
    "genesis": ({"version", "members"}, {"accuracy_after"}),
    "version": ({"prev", "version", "parents"}, {"accuracy_before", "accuracy_after"}),
    "join": ({"prev", "subject", "subject_key"}, set()),
    "leave": ({"prev", "subject"}, {"reason"}),
    "refusal": ({"prev", "version", "subject", "reason"}, {"accuracy_before", "accuracy_after"}),
    "readmission": ({"prev", "subject"}, {"reason"}),
    "void": ({"prev", "version", "subject"}, {"reason"}),
}
"""What an entry of each kind must have besides the fields that all have, and what it may have."""
RECEIPT_FIELDS = {"receiver", "receipt"}
"""What any entry but a genesis may have, both or none."""
Share = Annotated[float, Bounds(0.0, 1.0)]
Count = Annotated[int, Bounds(0)]
Signature = Annotated[str, Form(r"[0-9a-f]{128}", "128 hexadecimal digits")]


class LedgerError(ValueError):
    """A refusal, said in one line: where, what was found, what is accepted."""

    def __init__(self, reason: str, message: str, entry: int | None = None) -> None:
        super().__init__(message if entry is None else f"entry {entry}: {message}")
        self.reason = reason
        """Short code, one of those that ``docs/ledger.md`` lists."""
        self.entry = entry
        """Number of the entry in the ledger or in the text that was read, from 0; None if none."""


def malformed(name: str, value: object, accepted: str) -> LedgerError:
    """Return the error for a field that no entry may have."""
    return LedgerError("malformed", refusal_line(name, value, accepted))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One signed statement in a chain; `LedgerError` ``malformed`` if its fields are none."""

    protocol: Annotated[int, Bounds(PROTOCOL, PROTOCOL)]
    """Version of this format."""
    kind: Annotated[str, Form("|".join(KINDS), f"one of {', '.join(KINDS)}")]
    model_id: ModelId
    walker: Walker
    """With `model_id` the chain that the entry belongs to."""
    place: Count
    """Number in its chain, from 0."""
    prev: Digest = ""
    """Hash of the entry before it; empty in a genesis."""
    author: Address
    key: Annotated[str, Form(r"[0-9a-f]{16}", "16 hexadecimal digits")]
    """The first digits of the author's public key."""
    time_s: Annotated[float, Bounds(0.0)]
    """Virtual or wall time; never less than that of the entry before."""
    hop: Annotated[int, Bounds(0, 2**31 - 1)]
    samples: Count
    """Samples that the walk has trained on."""
    size_bytes: Count
    """Bytes of the packet."""
    version: Digest = ""
    """Digest of the tunables (`packets.version_digest`): made, founded on or refused here; of a
    void, which was sent to the subject and then elsewhere."""
    parents: Annotated[tuple[Digest, ...], Length(2)] = ()
    """The version it was made from; in a merge also the one of another chain."""
    accuracy_before: Share | None = None
    accuracy_after: Share | None = None
    """On the author's local data."""
    subject: Address = ""
    """Who joins, leaves, is refused or readmitted; of whom nothing counts that it made of it."""
    subject_key: Digest = ""
    """The public key of one who joins."""
    reason: Annotated[str, Form(r"[ -~]{1,200}", "up to 200 printable ASCII characters")] = ""
    members: Annotated[Mapping[Address, Digest], Length(MAX_MEMBERS)] = field(default_factory=dict)
    """Public key of each address that founds the collaboration set, in a genesis."""
    receiver: Address = ""
    """A node other than the author that took over the entry before."""
    receipt: Signature = ""
    """Its counter-signature."""
    signature: Signature
    """The author's, over `body`."""
    body: str = field(init=False, repr=False, compare=False)
    """The text that the author signs: everything above."""

    def __post_init__(self) -> None:
        """Check every field by itself, then what the kind asks for."""
        given = check_fields(Entry, self, malformed)
        needed, allowed = KINDS[self.kind]
        genesis = self.kind == "genesis"
        found = given.keys() - COMMON
        if missing := needed - found:
            raise malformed(min(missing), "", f"missing in a {self.kind} entry")
        if strange := found - needed - allowed - (set() if genesis else RECEIPT_FIELDS):
            name = min(strange)
            raise malformed(name, getattr(self, name), f"has no place in a {self.kind} entry")
        if genesis != (self.place == 0):
            raise malformed("place", self.place, "must be 0 in a genesis and nowhere else")
        if len(set(self.parents)) < len(self.parents):
            raise malformed("parents", self.parents, "must be two different versions")
        if bool(self.receiver) != bool(self.receipt) or self.receiver == self.author:
            raise malformed("receiver", self.receiver, "another than the author, with a receipt")
        del given["signature"]
        object.__setattr__(self, "body", dump_json(given))

    @cached_property
    def chain(self) -> str:
        """Name of the chain that the entry belongs to."""
        return chain_name(self.model_id, self.walker)

    @cached_property
    def text(self) -> str:
        """The one text that stands for this entry."""
        return f"{HEAD}{self.body}{MIDDLE}{self.signature}{TAIL}"

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the text: what the next entry names, 64 hexadecimal digits."""
        return text_hash(self.text)


@lru_cache(maxsize=4096)
def parse_entry(text: str) -> Entry:
    """Read an entry from its one text; its signature is not checked here.

    A text that was read lately is not read again, since the nodes of a simulation share most.
    `LedgerError` ``malformed`` if this is not exactly what `Entry.text` writes.
    """
    cut = len(text) - len(TAIL) - SIGNATURE_CHARS
    start = cut - len(MIDDLE)
    if not text.startswith(HEAD) or text[start:cut] != MIDDLE or not text.endswith(TAIL):
        raise malformed("entry", text, "does not begin and end as an entry does")
    values = load_json("entry", text[len(HEAD) : start], malformed, MAX_ENTRY_CHARS)
    values["signature"] = text[cut : -len(TAIL)]
    entry = Entry(**check_names(Entry, values, "", malformed))
    if entry.text != text:
        raise malformed("entry", text, "spelled in another way than sorted, compact JSON")
    return entry


def text_hash(text: str) -> str:
    """Return the hash of an entry's text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def chain_name(model_id: str, walker: str) -> str:
    """Return the name of a chain; neither half can have the sign between them."""
    return f"{model_id}#{walker}"


COMMON = {part.name for part in fields(Entry) if part.default is part.default_factory}
"""Fields without a default, which every entry has."""
