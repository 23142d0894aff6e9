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

from mfd_flower.ledger.chain import Chains
from mfd_flower.ledger.entry import Entry, LedgerError, chain_name
from mfd_flower.ledger.sync import heads, receive, suffix
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
        File of the ledger, made if nothing is there; ``":memory:"`` for none. `LedgerError`
        ``file`` if something else than a ledger is there, or it cannot be opened.
    members : mapping of str to str, optional
        The founding collaboration set, if known from elsewhere, see `Chains`.
    """

    def __init__(self, path: Path | str, *, members: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._members = members
        self._lock = threading.RLock()
        self._cache: Chains | None = None
        with self._transaction():
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
        return self._chains().tips.get(chain_name(model_id, walker))

    def append(self, entry: Entry) -> None:
        """Verify an entry and store it, in one transaction.

        `LedgerError` if it does not fit; nothing is stored then.
        """
        self.store(lambda chains: chains.extend([entry.text]))

    def receive(self, text: str, *, head: str = "") -> list[Entry]:
        """Verify a suffix or an export and store what is new, in one transaction.

        Parameters and errors are those of `sync.receive`.
        """
        return self.store(lambda chains: receive(chains, text, head=head))

    def suffix(self, since: str | Mapping[str, str] | None = None) -> str:
        """Return what a node lacks that announced these heads; everything as JSON lines if none."""
        return suffix(self._chains(), since)

    def entries(self) -> list[Entry]:
        """Return all entries in the order in which they were stored."""
        return list(self._chains().entries)

    def trace(self, version: str) -> list[Entry]:
        """Return the entries that made `version`, newest first, see `Chains.trace`."""
        return self._chains().trace(version)

    def verify(self) -> int:
        """Read the whole file afresh, check every byte of every entry, return how many there are.

        `LedgerError` for the first entry that is wrong; its `entry` is the number.
        """
        return len(self._read(check_signatures=True).entries)

    def store(self, extend: Callable[[Chains], object]) -> list[Entry]:
        """Let `extend` add verified entries to the chains, and store them in one transaction.

        `LedgerError` is whatever `extend` raises, or ``file``; nothing is stored then.
        """
        with self._transaction("BEGIN IMMEDIATE"):
            chains = self._chains()
            count = len(chains.entries)
            with chains.all_or_none():
                extend(chains)
                new = chains.entries[count:]
                rows = [(count + i, entry.text.encode()) for i, entry in enumerate(new)]
                self._db.executemany("INSERT INTO entries VALUES (?, ?)", rows)
                if new:
                    head = (len(chains.entries), new[-1].hash.encode())
                    self._db.execute("UPDATE head SET count = ?, hash = ?", head)
                self._db.commit()
            return new

    def close(self) -> None:
        """Close the file; what was stored stays."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self, begin: str = "") -> Iterator[None]:
        """Have the file alone, in a transaction if `begin` says which; name SQLite's errors."""
        with self._lock:
            try:
                outermost = begin and not self._db.in_transaction
                if outermost:
                    self._db.execute(begin)
                try:
                    yield
                    if outermost:
                        self._db.commit()
                finally:
                    if outermost:
                        self._db.rollback()
            except (sqlite3.Error, OSError) as error:
                raise LedgerError("file", f"{self.path}: {error}") from None

    def _open(self) -> None:
        with self._transaction():
            (found,) = self._db.execute("PRAGMA application_id").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if found != APPLICATION_ID and found | tables:
                raise LedgerError("file", f"{self.path}: not a ledger")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        if not found:
            with self._transaction("BEGIN IMMEDIATE"):
                # Another process may have been first.
                (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
                for statement in () if tables else SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _chains(self) -> Chains:
        """Return what is stored; the signatures were checked when it was."""
        with self._transaction():
            # Another process may have stored something since.
            stored = self._db.execute("SELECT count FROM head").fetchone()
            if self._cache is None or stored != (len(self._cache.entries),):
                self._cache = self._read(check_signatures=False)
            return self._cache

    def _read(self, check_signatures: bool) -> Chains:
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
        chains = Chains(() if check_signatures else texts, members=self._members)
        chains.extend(texts if check_signatures else ())
        ((count, last),) = head
        if len(texts) != count:
            said = f"the file has {len(texts)} entries, {count} were stored"
            raise LedgerError("cut-off" if len(texts) < count else "altered", said)
        if last != (chains.entries[-1].hash.encode() if texts else b""):
            raise LedgerError("altered", "the hash of the last entry is not the one stored beside")
        return chains
