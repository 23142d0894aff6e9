"""What is raised when a ledger, or something that was to go into one, is refused."""

from __future__ import annotations

from mfd_flower.checks import refusal_line


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
