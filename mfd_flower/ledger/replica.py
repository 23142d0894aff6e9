"""Replication: every node keeps its own copy, and a packet brings the entries its receiver lacks.

What travels is a suffix: entry texts, one a line, each after those it builds on. Heads, the hash
of each chain's newest entry, travel with packets and adverts; a chain that does not reach a head
that was announced has been cut off.
"""

from __future__ import annotations

from collections.abc import Mapping

from mfd_flower.ledger.chains import Chains
from mfd_flower.ledger.entries import Entry, text_hash
from mfd_flower.ledger.fields import LedgerError, malformed, show

MAX_SUFFIX_CHARS = 1 << 26


def heads(chains: Chains) -> dict[str, str]:
    """Return the hash of the newest entry of each chain, by the chain's name."""
    return {name: tip.hash for name, tip in chains.tips.items()}


def suffix(chains: Chains, since: str | Mapping[str, str] | None = None) -> str:
    """Return the entries that a node lacks that announced these heads.

    Parameters
    ----------
    chains : Chains
        What is here.
    since : str or mapping of str to str, optional
        The one head of a receiver that has one chain, or its heads by chain. Without any,
        everything is lacking. A chain whose head is not known here is longer there, or forked:
        nothing of it is sent, and what the receiver makes of that is up to `receive`.

    Returns
    -------
    str
        One line an entry; empty if nothing is lacking.
    """
    reached = dict.fromkeys(chains.tips, -1)
    if isinstance(since, str):
        entry = chains.find(since)
        since = {entry.chain: since} if entry else {}
    for name, head in (since or {}).items():
        if name in reached:
            entry = chains.find(head)
            reached[name] = entry.place if entry else chains.tips[name].place
    lacking = sum(tip.place - reached[name] for name, tip in chains.tips.items())
    lines: list[str] = []
    for entry in reversed(chains.entries):
        if len(lines) == lacking:
            break
        if entry.place > reached[entry.chain]:
            lines.append(entry.text + "\n")
    return "".join(reversed(lines))


def receive(
    chains: Chains, text: str, *, head: str = "", announced: Mapping[str, str] | None = None
) -> list[Entry]:
    """Verify a suffix and keep what is new of it: all, or none if anything is wrong.

    Parameters
    ----------
    chains : Chains
        What is here; unchanged if an error is raised.
    text : str
        As `suffix` returns it, from a node that is not believed. Entries that were here before are
        passed over.
    head : str
        The head that the packet itself names: it must be the newest of its chain afterwards.
    announced : mapping of str to str, optional
        Heads of chains that others announced: each must be reached.

    Returns
    -------
    list of Entry
        The new ones.

    Raises
    ------
    LedgerError
        With the reason; `entry` is the number among the new lines, where it lies in one.
    """
    count, tips = len(chains.entries), dict(chains.tips)
    lines = [line for line in _lines(text) if not chains.has(text_hash(line))]
    new = chains.extend(lines)
    try:
        for name, known in (announced or {}).items():
            if not chains.has(known):
                raise _cut_off(f"head of {name}", known)
        if head:
            _check_newest(chains, head)
    except LedgerError:
        chains.rewind(count, tips)
        raise
    return new


def _check_newest(chains: Chains, head: str) -> None:
    entry = chains.find(head)
    if entry is None:
        raise _cut_off("head", head)
    newest = chains.tips[entry.chain]
    if newest.hash != head:
        said = f"head = {head[:12]}...: place {entry.place} of {entry.chain} is sent again"
        raise LedgerError("replay", f"{said}, it stands at {newest.place}")


def _cut_off(field: str, head: str) -> LedgerError:
    return LedgerError("cut-off", f"{field} = {show(head[:12])}: not reached by what is here")


def _lines(text: object) -> list[str]:
    if not isinstance(text, str) or len(text) > MAX_SUFFIX_CHARS or not text.isascii():
        raise malformed("suffix", text, f"at most {MAX_SUFFIX_CHARS} ASCII characters")
    if text and not text.endswith("\n"):
        raise malformed("suffix", text[-60:], "whole lines")
    return text.split("\n")[:-1]
