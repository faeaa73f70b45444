"""``swashplate sign``: the signature of a binary, for proplets whose policy trusts the signer."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Annotated

import typer

from swashplate.errors import InvalidRequestError


def sign(
    what: Annotated[
        str, typer.Argument(metavar="FILE_OR_DIGEST", help="A .wasm file, or the digest sha256:… of a binary.")
    ],
    key: Annotated[Path, typer.Option(help="The Ed25519 private key, in PEM, without a passphrase.")],
) -> None:
    """Sign a binary: print the signature of its digest, for the option --signature SIGNER=… of a task.

    A key is made by: openssl genpkey -algorithm ed25519 -out key.pem. What goes into a proplet's policy is printed by:
    openssl pkey -in key.pem -pubout.

    Example: swashplate run app.wasm --signature team=$(swashplate sign app.wasm --key key.pem)
    """
    print(signature(what, key))


def signature(what: str, key: Path) -> str:
    """Base64; raises ``InvalidRequestError``."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from swashplate.client.tasks import wasm_bytes

    if re.fullmatch("sha256:[0-9a-f]{64}", what):
        digest = what
    else:
        digest = "sha256:" + hashlib.sha256(wasm_bytes(Path(what))).hexdigest()
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
    except OSError as error:
        raise InvalidRequestError(f"cannot read {key}: {error.strerror}", code="unreadable_file") from error
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(f"{key} is not a private key in PEM without a passphrase", code="bad_key") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidRequestError(f"{key} is not an Ed25519 key", code="bad_key")
    return base64.b64encode(private.sign(digest.encode())).decode()
