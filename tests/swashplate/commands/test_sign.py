"""``swashplate sign``, checked by another program."""

import base64
import hashlib
import subprocess

import pytest

from swashplate.commands.sign import signature
from swashplate.errors import InvalidRequestError

DIGEST = "sha256:" + hashlib.sha256(b"\0asm").hexdigest()


@pytest.fixture
def key(tmp_path):
    file = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True)
    return file


def test_what_is_signed_is_the_text_of_the_digest(tmp_path, key):
    wasm, said, signed, public = (tmp_path / name for name in ("a.wasm", "digest", "signature", "public.pem"))
    wasm.write_bytes(b"\0asm")
    said.write_text(DIGEST)
    signed.write_bytes(base64.b64decode(signature(str(wasm), key)))
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", said, "-sigfile", signed]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    assert signature(DIGEST, key) == signature(str(wasm), key)


def test_what_is_no_key_is_told(tmp_path, key):
    other = tmp_path / "rsa.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "rsa", "-out", other], check=True, capture_output=True)
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no key")
    for file, reason in (
        (other, "not an Ed25519 key"),
        (nothing, "not a private key"),
        (tmp_path / "x", "cannot read"),
    ):
        with pytest.raises(InvalidRequestError, match=reason):
            signature(DIGEST, file)
    with pytest.raises(InvalidRequestError, match=r"cannot read nowhere\.wasm"):
        signature("nowhere.wasm", key)
