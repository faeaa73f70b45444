"""Whose binary it is: Ed25519 signatures (RFC 8032) of the text of its digest, ``sha256:…``."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import lru_cache

Verify = Callable[[str, bytes], bool]
"""``(digest, signature)`` → is it this signer's?"""


def verifier(public_key: str) -> Verify:
    """Raises ``ValueError`` for what is no Ed25519 key."""
    # 10 MB, that a proplet without signers need not spend.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    text = public_key.strip()
    if text.startswith("-----"):
        try:
            key = load_pem_public_key(text.encode())
        except ValueError as error:
            raise ValueError("is not a public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("is not an Ed25519 key")
    else:
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise ValueError("is neither PEM nor the base64 of 32 bytes") from error

    @lru_cache(maxsize=1024)
    def verify(digest: str, signature: bytes) -> bool:
        try:
            key.verify(signature, digest.encode())
        except InvalidSignature:
            return False
        return True

    return verify


def decoded(signature: str) -> bytes:
    """Empty for what is not base64, which nobody signed."""
    try:
        return base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return b""
