"""How replicas become equal: a packet brings the entries that its receiver lacks.

What travels is a suffix: entry texts, one a line, each after those it builds on, packed by zlib.
Heads, the hash of each chain's newest entry, travel with packets and adverts; a chain that does not
reach a head that was announced has been cut off.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from mfd_flower.ledger.chain import Chains
from mfd_flower.ledger.entry import SIGNATURE_CHARS, Entry, LedgerError, malformed, text_hash

LINE_CHARS = 2048
"""No entry is longer, but a genesis: its keys, which do not pack well, make up for that."""


def heads(chains: Chains) -> dict[str, str]:
    """Return the hash of the newest entry of each chain, by the chain's name."""
    return {name: tip.hash for name, tip in chains.tips.items()}


def suffix(chains: Chains, since: str | Mapping[str, str] | None = None) -> str:
    """Return the entries that a node lacks that announced these heads, one a line.

    `since` is the one head of a receiver that has one chain, or its heads by chain. Without any,
    everything is lacking. A chain whose head is not known here is longer there, or forked: nothing
    of it is sent, and what the receiver makes of that is up to `receive`.
    """
    reached = dict.fromkeys(chains.tips, -1)
    if isinstance(since, str):
        entry = chains.find(since)
        since = {entry.chain: since} if entry else {}
    for name, head in (since or {}).items():
        if name in reached:
            reached[name] = (chains.find(head) or chains.tips[name]).place
    lacking = sum(tip.place - reached[name] for name, tip in chains.tips.items())
    lines: list[str] = []
    for entry in reversed(chains.entries):
        if len(lines) == lacking:
            break
        if entry.place > reached[entry.chain]:
            lines.append(entry.text + "\n")
    return "".join(reversed(lines))


def receive(chains: Chains, text: str, *, head: str = "") -> list[Entry]:
    """Verify a suffix, keep and return what is new of it: all, or none if anything is wrong.

    `text` is as `suffix` returns it, from a node that is not believed; entries that were here
    before are passed over. `head`, which the packet itself names, must be the newest of its chain
    afterwards.

    Raises
    ------
    LedgerError
        With the reason; `entry` is the number among the new lines, where it lies in one.
    """
    with chains.all_or_none():
        new = chains.extend([line for line in _lines(text) if not chains.has(text_hash(line))])
        entry = chains.find(head)
        if head and entry is None:
            raise LedgerError("cut-off", f"head = {head[:12]!r}: not reached by what is here")
        if entry and (newest := chains.tips[entry.chain]).hash != head:
            said = f"head = {head[:12]}...: place {entry.place} of {entry.chain} is sent again"
            raise LedgerError("replay", f"{said}, it stands at {newest.place}")
        return new


def packed(lines: str) -> bytes:
    """Return a suffix as it travels beside a packet."""
    return zlib.compress(lines.encode("ascii"), 9)


def unpacked(data: object) -> str:
    """Return a suffix as it was before it was packed; empty if nothing came.

    An entry packs into no less than the 64 bytes of its signature, so what came bounds how many
    there are: more than that is refused before it takes memory. `LedgerError` ``malformed`` if it
    is no zlib stream of ASCII, or longer than so many entries can be.
    """
    if not data:
        return ""
    if not isinstance(data, bytes):
        raise malformed("lines", data, "must be ASCII packed by zlib")
    most = (len(data) // (SIGNATURE_CHARS // 2) + 1) * LINE_CHARS
    stream = zlib.decompressobj()
    try:
        lines = stream.decompress(data, most).decode("ascii")
    except (zlib.error, UnicodeDecodeError):
        raise malformed("lines", data, "must be ASCII packed by zlib") from None
    if not stream.eof or stream.unused_data:
        raise malformed("lines", data, f"must be whole, and at most {most} characters unpacked")
    return lines


def _lines(text: object) -> list[str]:
    if not isinstance(text, str) or not text.isascii():
        raise malformed("suffix", text, "must be ASCII")
    # Counted before they are split: a line feed alone takes no byte on the way and many here.
    if text.count("\n") * SIGNATURE_CHARS > len(text) or (text and not text.endswith("\n")):
        raise malformed("suffix", text, "must be whole entries, one a line")
    return text.split("\n")[:-1]
