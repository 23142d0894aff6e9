"""A ledger on disk survives kill -9, and nothing in its file changes unseen."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mfd_flower.ledger import Ledger, LedgerError, example_ledger
from mfd_flower.ledger.example import extend_example
from tests.ledger.walks import after, example, lines, start, texts, tip_of

ROOT = Path(__file__).parents[2]
WRITER = """
import os, sys
from mfd_flower.ledger import Ledger
from mfd_flower.ledger.example import extend_example

assert "torch" not in sys.modules, "reading a ledger takes no torch"
for kill in range(100):
    child = os.fork()
    if child == 0:
        path = f"{sys.argv[1]}.{kill // 20}"
        ledger = Ledger(path)
        # A line is written whole, whatever Python's settings: nobody is killed within one.
        os.write(1, f"pid {os.getpid()} {path} {len(ledger.entries())}\\n".encode())
        while True:
            count = len(ledger.entries()) + 1
            ledger.store(lambda chains: extend_example(chains, count))
            os.write(1, f"{count} {ledger.head}\\n".encode())
    os.waitpid(child, 0)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_writer_killed_100_times_loses_nothing_it_had_stored(path: Path) -> None:
    words = [sys.executable, "-c", WRITER, str(path)]
    rng, kills, acknowledged = random.Random(0), 0, 0
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        pid, left = 0, 0
        for line in writer.stdout:
            said = line.split()
            if said[0] == "pid":
                assert int(said[3]) >= acknowledged or kills % 20 == 0
                pid, left, acknowledged = int(said[1]), rng.randrange(3), 0
            else:
                acknowledged, head, left = int(said[0]), said[1], left - 1
            if left == 0 and pid:
                os.kill(pid, signal.SIGKILL)
                kills, pid = kills + 1, 0
                if acknowledged:
                    with Ledger(f"{path}.{(kills - 1) // 20}") as ledger:
                        assert ledger.entries()[acknowledged - 1].hash == head
    assert kills == 100
    for number in range(5):
        with Ledger(f"{path}.{number}") as ledger:
            found = ledger.verify()
            assert found > 10
            assert ledger.entries() == example(found).entries


def test_what_was_stored_is_there_after_opening_again(path: Path) -> None:
    with example_ledger(path, 10) as ledger:
        head, heads = ledger.head, ledger.heads
    with Ledger(path) as ledger:
        assert (ledger.head, ledger.heads) == (head, heads)
        assert ledger.verify() == 10
        assert ledger.entries() == example(10).entries


def test_an_export_is_received_as_it_was(path: Path) -> None:
    with example_ledger(path, 10) as one, Ledger(":memory:") as other:
        assert other.head == ""
        assert other.receive(one.suffix(), head=one.head) == one.entries()
        assert other.suffix() == one.suffix() == lines(*example(10).entries)
        assert other.receive(one.suffix()) == []
        assert other.verify() == 10


def test_what_is_refused_is_not_stored(path: Path) -> None:
    with example_ledger(path, 3) as ledger:
        tip = ledger.tip("example")
        assert tip is not None
        good, bad = after(tip, "n3"), after(tip, "n9")
        with pytest.raises(LedgerError):
            ledger.append(bad)
        with pytest.raises(LedgerError):
            ledger.receive(lines(good, bad))
        assert ledger.entries() == example(3).entries
        ledger.append(good)
    with Ledger(path) as ledger:
        assert ledger.verify() == 4


def test_a_full_disk_leaves_memory_and_file_alike(path: Path) -> None:
    with example_ledger(path, 3) as ledger:
        (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError) as caught:
            ledger.store(lambda chains: extend_example(chains, 100))
        assert caught.value.reason == "file"
        assert len(ledger.entries()) == ledger.verify() == 3


def test_two_that_have_the_file_open_see_each_other(path: Path) -> None:
    with example_ledger(path, 3) as one, Ledger(path) as two:
        tip = two.tip("example")
        assert tip is not None
        two.append(after(tip, "n3"))
        assert one.head == two.head
        with pytest.raises(LedgerError) as caught:
            one.append(after(tip, "n2"))
        assert caught.value.reason == "fork"


def test_threads_take_turns(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.append(start())

        def write(author: str) -> None:
            for _ in range(5):
                ledger.store(lambda chains: chains.extend([after(tip_of(chains), author).text]))

        threads = [threading.Thread(target=write, args=(f"n{node}",)) for node in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.verify() == 21


def test_something_else_than_a_ledger_is_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"just some text, and not a database at all" * 50)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, text BLOB)")
    db.close()
    before = path.read_bytes(), other.read_bytes()
    for wrong in (path, other, tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(LedgerError) as caught:
            Ledger(wrong)
        assert caught.value.reason == "file"
        assert "\n" not in str(caught.value)
    assert before == (path.read_bytes(), other.read_bytes())


ROWS = [
    "DELETE FROM entries WHERE number = 5",
    "DELETE FROM entries WHERE number = 2",
    "DELETE FROM entries",
    "DELETE FROM head",
    "UPDATE head SET count = 5",
    "UPDATE head SET count = 7",
    "UPDATE head SET hash = zeroblob(64)",
    "UPDATE entries SET text = CAST(text AS TEXT) WHERE number = 3",
    "UPDATE entries SET text = NULL WHERE number = 3",
    "UPDATE entries SET text = 7 WHERE number = 3",
    "UPDATE entries SET number = 9 WHERE number = 5",
    "UPDATE entries SET number = -1 WHERE number = 5",
    "INSERT INTO entries SELECT 6, text FROM entries WHERE number = 5",
    "DROP TABLE head",
]


@pytest.mark.parametrize("change", ROWS)
def test_changed_rows_are_found_without_a_traceback(path: Path, change: str) -> None:
    example_ledger(path, 6).close()
    with sqlite3.connect(path) as db:
        # The table says NOT NULL; who edits a file need not care.
        db.execute("PRAGMA ignore_check_constraints = 1")
        try:
            db.execute(change)
        except sqlite3.IntegrityError:
            db.execute("DELETE FROM entries WHERE number = 3")
    db.close()
    with Ledger(path) as ledger:
        with pytest.raises(LedgerError):
            ledger.verify()
        with pytest.raises(LedgerError):
            ledger.entries()
        with pytest.raises(LedgerError):
            ledger.append(after(tip_of(example(6)), "n2"))


def test_a_flipped_bit_of_the_file_is_found_or_changes_nothing(path: Path) -> None:
    example_ledger(path, 6).close()
    whole, wanted = path.read_bytes(), texts(example(6))
    rng, found = random.Random(0), []
    # SQLite's header and every page's beginning, then anywhere.
    places = [*range(0, 108), *(rng.randrange(len(whole)) for _ in range(150))]
    for place in places:
        altered = bytearray(whole)
        altered[place] ^= 1 << rng.randrange(8)
        for beside in path.parent.glob("ledger.sqlite-*"):
            beside.unlink()
        path.write_bytes(altered)
        try:
            with Ledger(path) as ledger:
                ledger.verify()
                assert [entry.text for entry in ledger.entries()] == wanted
        except LedgerError as error:
            found.append(str(error))
    assert len(found) > 50
    assert not [said for said in found if "\n" in said]
