"""Keys of nodes: Ed25519 signatures (RFC 8032), made and checked by the `cryptography` package.

Private keys are that package's objects, which show nothing of themselves when printed; public keys
and signatures are hexadecimal text. What is signed begins with its purpose, so that a signature
for one purpose is none for another.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mfd_flower.ledger.entry import LedgerError


def new_key() -> Ed25519PrivateKey:
    """Return a fresh private key from the operating system's random numbers."""
    return Ed25519PrivateKey.generate()


def key_of(seed: int, address: str) -> Ed25519PrivateKey:
    """Return the private key of a simulated node. For simulations only: who knows `seed` has it.

    HKDF (RFC 5869) with SHA-256 of seed and address.
    """
    derive = HKDF(SHA256(), 32, salt=None, info=b"mfd-ledger simulated key\n" + address.encode())
    return Ed25519PrivateKey.from_private_bytes(derive.derive(str(seed).encode()))


def public_key(key: Ed25519PrivateKey) -> str:
    """Return the public half: 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def write_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a private key to a new file (PKCS #8, PEM) that only its owner may read.

    `LedgerError` if there is something at `path` already, or it cannot be written.
    """
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        # The mode is given at creation, so there is no moment at which others can open the file.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise LedgerError("key-file", f"{path}: is there already and is not replaced") from None
    except OSError as error:
        raise LedgerError("key-file", f"{path}: {error.strerror}") from None


def sign_text(key: Ed25519PrivateKey, purpose: str, text: str) -> str:
    """Return the signature of `text` for one purpose: 128 hexadecimal digits."""
    return key.sign(_signed(purpose, text)).hex()


def signed_by(public: str, purpose: str, text: str, signature: str) -> bool:
    """Tell whether the owner of `public` signed `text` for this purpose."""
    try:
        _verifier(public).verify(bytes.fromhex(signature), _signed(purpose, text))
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=4096)
def _verifier(public: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))


def _signed(purpose: str, text: str) -> bytes:
    return f"mfd-ledger {purpose}\n{text}".encode()
