"""Ledgers for the tests: valid entries, and entries that lie and are signed all the same."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from mfd_flower.ledger import Chains, Entry, LedgerError, Tip, follow, found, key_of, public_key
from mfd_flower.ledger.example import extend_example
from mfd_flower.ledger.keys import sign_text

MODEL = "example"


def digest(word: object) -> str:
    return hashlib.sha256(str(word).encode()).hexdigest()


def example(entries: int) -> Chains:
    """Return the example walk; from 9 entries on it has every kind."""
    chains = Chains()
    extend_example(chains, entries)
    return chains


def texts(chains: Chains) -> list[str]:
    return [entry.text for entry in chains.entries]


def lines(*entries: Entry) -> str:
    return "".join(entry.text + "\n" for entry in entries)


def tip_of(chains: Chains, walker: str = "w0") -> Tip:
    return chains.tips[f"{MODEL}#{walker}"]


def start(walker: str = "w0", nodes: int = 4, version: str | None = None) -> Entry:
    """Return a genesis by n0."""
    members = {f"n{node}": public_key(key_of(0, f"n{node}")) for node in range(nodes)}
    return found(
        key_of(0, "n0"),
        author="n0",
        model_id=MODEL,
        walker=walker,
        version=version or digest("W0"),
        members=members,
    )


def after(tip: Tip, author: str, **fields: Any) -> Entry:
    """Return the next entry by `author`, signed with its own key; a new version by default."""
    if fields.get("kind", "version") == "version":
        fields.setdefault("version", digest((tip.hash, author)))
    return follow(key_of(0, author), tip, author=author, **fields)


def resigned(entry: Entry, signer: str | None = None, **changes: Any) -> Entry:
    """Return the entry with other fields, signed again by `signer`, its author by default."""
    changed = dataclasses.replace(entry, **changes)
    key = key_of(0, signer or changed.author)
    return dataclasses.replace(changed, signature=sign_text(key, "entry", changed.body))


def refused(chains: Chains, *lines: str) -> LedgerError:
    """Return why `chains` refuse the lines, which must leave them as they were."""
    before = (texts(chains), dict(chains.tips))
    with pytest.raises(LedgerError) as caught:
        chains.extend(lines)
    assert (texts(chains), chains.tips) == before
    assert "\n" not in str(caught.value)
    return caught.value
