"""A private key is its owner's alone, and signs for one purpose at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mfd_flower.ledger import LedgerError, key_of, new_key, public_key, write_key
from mfd_flower.ledger.keys import sign_text, signed_by


def test_a_written_key_is_read_back_and_open_to_nobody_else(tmp_path: Path) -> None:
    path, key = tmp_path / "node.pem", new_key()
    umask = os.umask(0)
    try:
        write_key(path, key)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    read = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(read, Ed25519PrivateKey)
    assert public_key(read) == public_key(key)


def test_the_file_is_private_before_there_is_anything_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    fdopen = os.fdopen

    def watched(descriptor: int, mode: str) -> object:
        stat = os.fstat(descriptor)
        seen.append((stat.st_mode & 0o777, stat.st_size))
        return fdopen(descriptor, mode)

    monkeypatch.setattr(os, "fdopen", watched)
    write_key(tmp_path / "node.pem", new_key())
    assert seen == [(0o600, 0)]


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    write_key(path, new_key())
    before = path.read_bytes()
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    for taken in (path, link):
        with pytest.raises(LedgerError, match="not replaced"):
            write_key(taken, new_key())
    assert path.read_bytes() == before
    assert not (tmp_path / "elsewhere.pem").exists()


def test_a_key_does_not_show_itself() -> None:
    key = new_key()
    private = key.private_bytes_raw()
    for shown in (repr(key), str(key), f"{key!r}"):
        assert private.hex() not in shown
        assert repr(private) not in shown


def test_simulated_keys_differ_by_seed_and_address() -> None:
    keys = {public_key(key_of(seed, f"n{node}")) for seed in range(5) for node in range(5)}
    assert len(keys) == 25
    assert public_key(key_of(1, "2n")) != public_key(key_of(12, "n"))


def test_the_simulated_keys_are_the_same_on_every_machine() -> None:
    """Pinned: nodes in other processes derive them too."""
    assert public_key(key_of(0, "n0"))[:16] == "9110c7e511570e68"


def test_a_signature_is_for_its_purpose_text_and_key() -> None:
    key, other = new_key(), new_key()
    public, signature = public_key(key), sign_text(key, "entry", "text")
    assert signed_by(public, "entry", "text", signature)
    assert not signed_by(public, "receipt", "text", signature)
    assert not signed_by(public, "entry", "text ", signature)
    assert not signed_by(public_key(other), "entry", "text", signature)
    assert not signed_by(public, "entry", "text", signature[2:])
    assert not signed_by("0" * 62, "entry", "text", signature)
