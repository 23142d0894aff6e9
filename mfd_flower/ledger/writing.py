"""What a node writes: the genesis of a chain, entries that follow, receipts for what it took over.

Custody changes hands twice signed. The receiver of an entry signs its hash and its own address (a
receipt), which the sender keeps until it sees the receiver's next entry in the chain: that entry's
signature covers the same hash and address and takes the receipt's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mfd_flower.checks import check_names, show
from mfd_flower.ledger.entry import PROTOCOL, SIGNATURE_CHARS, Entry, LedgerError, malformed
from mfd_flower.ledger.keys import public_key, sign_text, signed_by

ENTRY, RECEIPT = "entry", "receipt"
"""Purposes of signatures."""


class Tip(NamedTuple):
    """Where a chain stands: what the next entry is held against."""

    model_id: str
    walker: str
    place: int
    """Of the newest entry, as `hash`, `author`, `hop` and `time_s`."""
    hash: str
    author: str
    hop: int
    time_s: float
    version: str
    """The version in force: the one made last that was not refused."""
    members: Mapping[str, str]
    """Public keys of the addresses that may write now."""
    keys: Mapping[str, str]
    """The same of all that ever could."""
    founder: str
    """Author of the genesis."""


def found(key: Ed25519PrivateKey, *, walker: str = "w0", **fields: Any) -> Entry:
    """Return the signed genesis of a chain: version W0 and the collaboration set.

    `key` is the author's; `fields` are those of `Entry`: ``author``, ``model_id``, ``version``,
    ``members``, the public key of each address, the author's among them; and if wanted ``time_s``,
    ``size_bytes``, ``accuracy_after``. `LedgerError` ``malformed`` if one is.
    """
    chain = {"walker": walker, "place": 0, "hop": 0, "time_s": 0.0}
    return _signed(key, {"kind": "genesis", **chain, **fields})


def follow(
    key: Ed25519PrivateKey, tip: Tip, *, author: str, kind: str = "version", **fields: Any
) -> Entry:
    """Return the signed entry that comes next in a chain; it is not stored yet.

    `key` is the author's; `fields` are others of `Entry`. Left out, ``hop`` and ``time_s`` are
    those of the entry before, and the parent of a version is the one in force. `LedgerError`
    ``malformed`` if one is.
    """
    if kind == "version":
        fields.setdefault("parents", (tip.version,))
    chain = {"model_id": tip.model_id, "walker": tip.walker, "place": tip.place + 1}
    told = {"prev": tip.hash, "hop": tip.hop, "time_s": tip.time_s}
    return _signed(key, {"kind": kind, "author": author, **chain, **told, **fields})


def countersign(key: Ed25519PrivateKey, entry_hash: str, receiver: str) -> str:
    """Return the receiver's receipt for an entry: 128 hexadecimal digits."""
    return sign_text(key, RECEIPT, f"{entry_hash}\n{receiver}")


def check_receipt(tip: Tip, entry_hash: str, receiver: str, receipt: object) -> None:
    """Check a receipt that came with an acknowledgement.

    `LedgerError` ``receipt`` if the receiver is no member or did not sign for this entry.
    """
    public = tip.members.get(receiver)
    if public is None:
        raise LedgerError("receipt", f"receiver = {show(receiver)}: not in the collaboration set")
    said = f"{entry_hash}\n{receiver}"
    if not isinstance(receipt, str) or not signed_by(public, RECEIPT, said, receipt):
        raise LedgerError("receipt", f"receipt of {receiver} does not fit {entry_hash[:12]}...")


def _signed(key: Ed25519PrivateKey, fields: Mapping[str, Any]) -> Entry:
    given = {"protocol": PROTOCOL, "samples": 0, "size_bytes": 0, **fields}
    given |= {"key": public_key(key)[:16], "signature": "0" * SIGNATURE_CHARS}
    entry = Entry(**check_names(Entry, given, "", malformed))
    # Nobody has seen it without its signature, which is no reason to check all fields again.
    object.__setattr__(entry, "signature", sign_text(key, ENTRY, entry.body))
    return entry
