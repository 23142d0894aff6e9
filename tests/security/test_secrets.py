"""Private keys stay where they were made: not in results, ledgers, checkpoints, logs or errors."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mfd_flower.config import RunConfig
from mfd_flower.ledger.keys import Ed25519PrivateKey, key_of, new_key, public_key, write_key
from mfd_flower.records import message_bytes
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally
from tests.harness import trial
from tests.test_cli import call

NODES = 3
SIGNED = {"traits": {"ledger": {}, "admission": {}}}
CONFIG = """
[data]
name = "digits"
nodes = 3
train_samples = 48
test_samples = 40
[model]
tune = "head"
[[strategies]]
strategy = "mfd-walk"
rounds = 1
options = { traits = { ledger = {} } }
"""


def forms(key: Ed25519PrivateKey) -> Iterator[bytes]:
    """Yield how a private key may be written down."""
    raw = key.private_bytes_raw()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield base64.b64encode(raw).rstrip(b"=")
    yield base64.urlsafe_b64encode(raw).rstrip(b"=")
    yield json.dumps(list(raw)).encode()
    yield str(raw)[2:-1].encode()


SECRETS = {form for node in range(NODES) for form in forms(key_of(0, f"n{node}"))}


def leaks(data: bytes) -> bool:
    return any(secret in data for secret in SECRETS)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_search_finds_a_key_that_is_written_down(tmp_path: Path) -> None:
    for form in forms(key_of(0, "n1")):
        assert leaks(b"before" + form + b"behind")
    assert not leaks(public_key(key_of(0, "n1")).encode())


def test_no_file_and_no_line_of_a_signed_comparison_has_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out, log = tmp_path / "c.toml", tmp_path / "out", tmp_path / "log.txt"
    config.write_text(CONFIG)
    code, said, warned = call(capsys, "compare", config, "--out", out, "--log-file", log)
    assert code == 0
    found = files_below(tmp_path)
    assert {"results.json", "report.html"} <= {Path(path).name for path in found}
    public = public_key(key_of(0, "n0")).encode()
    (ledger,) = (content for path, content in found.items() if path.endswith(".sqlite"))
    assert public in ledger, "the run was not signed with these keys"
    assert not [path for path, content in found.items() if leaks(content)]
    assert not leaks((said + warned).encode())


def test_no_checkpoint_and_no_message_has_a_key(
    make_run: Callable[..., RunConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run("mfd-walk", options=SIGNED, model={"tune": "head"})

    def stop(point: dict[str, object]) -> None:
        if point["step"] == 2:
            raise InterruptedError

    with caplog.at_level(logging.DEBUG), pytest.raises(InterruptedError):
        run_locally(run, stop, files=RunFiles(tmp_path, "a", 1))
    found = files_below(tmp_path)
    assert any(path.endswith(".state") for path in found)
    assert not [path for path, content in found.items() if leaks(content)]
    walked = trial(run)
    sent = [m for m in (*walked.grid.requests, *walked.grid.replies) if m is not None]
    assert len(sent) > NODES
    assert not any(leaks(message_bytes(message)) for message in sent)
    assert not leaks(caplog.text.encode())


def test_a_key_shows_nothing_of_itself_and_its_file_is_its_owners(tmp_path: Path) -> None:
    key = new_key()
    shown = repr(key) + str(key) + repr({"key": key})
    assert not any(form in shown.encode() for form in forms(key))
    write_key(tmp_path / "node.pem", key)
    assert (tmp_path / "node.pem").stat().st_mode & 0o077 == 0
