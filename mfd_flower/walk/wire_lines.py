"""Lines of the ledger as they travel beside a packet: packed by zlib, believed by nobody."""

from __future__ import annotations

import zlib

from mfd_flower.ledger import LedgerError

MAX_LINES_BYTES = 1 << 26
"""Of lines once they are unpacked; more is refused before it takes memory."""


def packed(lines: str) -> bytes:
    """Return lines of ASCII as they travel."""
    return zlib.compress(lines.encode("ascii"), 9)


def unpacked(data: object) -> str:
    """Return lines as they were before they were packed.

    Raises
    ------
    LedgerError
        ``malformed``, if they are no zlib stream or longer than is accepted.
    """
    if not data:
        return ""
    if not isinstance(data, bytes):
        raise LedgerError("malformed", "lines: must be ASCII packed by zlib")
    try:
        stream = zlib.decompressobj()
        lines = stream.decompress(data, MAX_LINES_BYTES).decode("ascii")
    except (zlib.error, UnicodeDecodeError):
        raise LedgerError("malformed", "lines: must be ASCII packed by zlib") from None
    if not stream.eof or stream.unused_data:
        raise LedgerError("malformed", f"lines: must be whole, and at most {MAX_LINES_BYTES} bytes")
    return lines
