"""The ledger of a node on disk: SQLite, one transaction an entry, whole after any crash.

The text of each entry is the truth. Beside it the file holds only the number of entries and the
hash of the last one, so that a lost tail is noticed; `Ledger.verify` reads all of it afresh.
SQLite, https://www.sqlite.org/atomiccommit.html, with a write-ahead log that is synced at each
commit.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from mfd_flower.ledger.chains import Chains
from mfd_flower.ledger.entries import Entry
from mfd_flower.ledger.fields import LedgerError
from mfd_flower.ledger.replica import heads, receive, suffix
from mfd_flower.ledger.writing import Tip

APPLICATION_ID = 0x4D46444C
"""The letters MFDL in the file's header."""
SCHEMA = (
    "CREATE TABLE entries (number INTEGER PRIMARY KEY, text BLOB NOT NULL)",
    "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 0), count INTEGER, hash BLOB)",
    "INSERT INTO head VALUES (0, 0, X'')",
)


class Ledger:
    """A node's own replica. Threads may use it, one at a time; others wait.

    Parameters
    ----------
    path : Path or str
        File of the ledger, made if nothing is there; ``":memory:"`` for none.
    members : mapping of str to str, optional
        The founding collaboration set, if known from elsewhere, see `Chains`.

    Raises
    ------
    LedgerError
        ``file``, if there is something else than a ledger, or it cannot be opened.
    """

    def __init__(self, path: Path | str, *, members: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._members = members
        self._lock = threading.RLock()
        self._cache: Chains | None = None
        with self._errors_named():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    @property
    def head(self) -> str:
        """Hash of the last entry that was stored, empty if there is none."""
        entries = self._chains().entries
        return entries[-1].hash if entries else ""

    @property
    def heads(self) -> dict[str, str]:
        """Hash of the newest entry of each chain, by the chain's name."""
        return heads(self._chains())

    def tip(self, model_id: str, walker: str = "w0") -> Tip | None:
        """Return where a chain stands, None if it is not here."""
        return self._chains().tips.get(f"{model_id}#{walker}")

    def append(self, entry: Entry) -> None:
        """Verify an entry and store it, in one transaction.

        Raises
        ------
        LedgerError
            If it does not fit, and nothing is stored.
        """
        self.store(lambda chains: chains.extend([entry.text]))

    def receive(
        self, text: str, *, head: str = "", announced: Mapping[str, str] | None = None
    ) -> list[Entry]:
        """Verify a suffix or an export and store what is new, in one transaction.

        Parameters and errors are those of `replica.receive`.
        """
        return self.store(lambda chains: receive(chains, text, head=head, announced=announced))

    def suffix(self, since: str | Mapping[str, str] | None = None) -> str:
        """Return what a node lacks that announced these heads; everything as JSON lines if none."""
        return suffix(self._chains(), since)

    def entries(self, since: str | int = 0) -> list[Entry]:
        """Return the entries after the one of this hash, or from this number on.

        Raises
        ------
        LedgerError
            ``missing``, if no entry has this hash.
        """
        entries = self._chains().entries
        if isinstance(since, int):
            return entries[max(since, 0) :]
        for number, entry in enumerate(entries):
            if entry.hash == since:
                return entries[number + 1 :]
        if since == "":
            return list(entries)
        raise LedgerError("missing", f"since = {since[:64]}: no entry has this hash")

    def trace(self, version: str) -> list[Entry]:
        """Return the entries that made `version`, newest first, see `Chains.trace`."""
        return self._chains().trace(version)

    def verify(self) -> int:
        """Read the whole file afresh, check every byte of every entry, return how many there are.

        Raises
        ------
        LedgerError
            For the first entry that is wrong; `entry` is its number.
        """
        with self._lock, self._errors_named():
            texts, count, last = self._read()
        chains = Chains(members=self._members)
        chains.extend(texts)
        _check_head(chains, count, last)
        return count

    def store(self, extend: Callable[[Chains], object]) -> list[Entry]:
        """Let `extend` add verified entries to the chains, and store them in one transaction.

        Raises
        ------
        LedgerError
            Whatever `extend` raises, or ``file``; nothing is stored then.
        """
        with self._lock, self._errors_named(), self._transaction("BEGIN IMMEDIATE"):
            chains = self._chains()
            count, tips = len(chains.entries), dict(chains.tips)
            try:
                extend(chains)
                new = chains.entries[count:]
                rows = [(count + i, entry.text.encode()) for i, entry in enumerate(new)]
                self._db.executemany("INSERT INTO entries VALUES (?, ?)", rows)
                if new:
                    head = (len(chains.entries), new[-1].hash.encode())
                    self._db.execute("UPDATE head SET count = ?, hash = ?", head)
                self._db.execute("COMMIT")
            except BaseException:
                chains.rewind(count, tips)
                raise
            return new

    def close(self) -> None:
        """Close the file; what was stored stays."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self) -> None:
        (found,) = self._db.execute("PRAGMA application_id").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        fresh = found == tables == 0
        if found != APPLICATION_ID and not fresh:
            raise LedgerError("file", f"{self.path}: not a ledger")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if fresh:
            with self._transaction("BEGIN IMMEDIATE"):
                (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
                for statement in () if tables else SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _chains(self) -> Chains:
        """Return what is stored; the signatures were checked when it was."""
        with self._lock, self._errors_named():
            # Another process may have stored something since.
            stored = self._db.execute("SELECT count FROM head").fetchone()
            if self._cache is None or stored != (len(self._cache.entries),):
                texts, count, last = self._read()
                chains = Chains(texts, members=self._members)
                _check_head(chains, count, last)
                self._cache = chains
            return self._cache

    def _read(self) -> tuple[list[str], int, bytes]:
        """Return the entries' texts, how many there must be, and the last one's hash."""
        with self._transaction("BEGIN"):
            head = self._db.execute("SELECT count, hash FROM head").fetchall()
            rows = self._db.execute("SELECT number, text FROM entries ORDER BY number").fetchall()
        if len(head) != 1 or not isinstance(head[0][0], int):
            raise LedgerError("file", f"{self.path}: says not how many entries it has")
        texts = []
        for number, (stored, text) in enumerate(rows):
            if stored != number:
                raise LedgerError("missing", f"the file goes on with {stored}", number)
            if not isinstance(text, bytes) or not text.isascii():
                raise LedgerError("malformed", "not ASCII text", number)
            texts.append(text.decode("ascii"))
        return texts, head[0][0], head[0][1]

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        if self._db.in_transaction:
            yield
            return
        self._db.execute(begin)
        try:
            yield
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError("file", f"{self.path}: {error}") from None


def _check_head(chains: Chains, count: int, last: object) -> None:
    found = len(chains.entries)
    if found != count:
        said = f"the file has {found} entries, {count} were stored"
        raise LedgerError("cut-off" if found < count else "altered", said)
    if last != (chains.entries[-1].hash.encode() if chains.entries else b""):
        raise LedgerError("altered", "the hash of the last entry is not the one stored beside")
