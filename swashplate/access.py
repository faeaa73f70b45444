"""Who may use an HTTP service: nobody is asked on loopback, a token is demanded once one is set.

A token is sent as ``Authorization: Bearer …``. OCI clients speak Basic only: to them it is the password of any user.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from swashplate.errors import ConfigurationError, UnauthorizedError
from swashplate.settings import Settings, refuse_open_bind

SHORTEST_TOKEN = 16
READING = {"GET", "HEAD"}


def _usable(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if text and not re.fullmatch(r"[!-~]+", text):
        raise ValueError("a token is made of visible ASCII characters")
    if text and len(text) < SHORTEST_TOKEN:
        raise ValueError(f"a token has at least {SHORTEST_TOKEN} characters; openssl rand -hex 16 makes one")
    return secret


Token = Annotated[SecretStr, AfterValidator(_usable)]
NO_TOKEN = SecretStr("")


@dataclass(frozen=True)
class Access:
    """What a service demands. Without a token: nothing."""

    token: str = field(default="", repr=False)
    read_token: str = field(default="", repr=False)
    """Enough for GET and HEAD."""
    setting: str = ""
    """The name of the setting that callers need."""
    basic: bool = False
    """Take a token as the password of HTTP Basic too."""

    @property
    def challenge(self) -> str:
        return f'{"Basic" if self.basic else "Bearer"} realm="swashplate"'

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Raises ``UnauthorizedError``. ``/health`` is open: who asks for it has no token yet, or is a container engine."""
        if not self.token or path == "/health":
            return
        enough = [self.token]
        if self.read_token and method in READING:
            enough.append(self.read_token)
        shown = self._shown(headers.get("Authorization", ""))
        matches = [hmac.compare_digest(shown, token.encode()) for token in enough]
        if not any(matches):
            raise UnauthorizedError(
                "the token is missing" if not shown else f"the token does not allow {method} {path}",
                hint=f"send Authorization: Bearer with the token of {self.setting}",
            )

    def _shown(self, authorization: str) -> bytes:
        scheme, _, given = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            return given.strip().encode(errors="replace")
        if scheme.lower() == "basic" and self.basic:
            try:
                return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        return b""


class HttpSettings(Settings):
    """Who may use this service's HTTP. A role gives the names: ``named_after``."""

    http_insecure: bool = Field(
        False, description="Serve HTTP without a token beyond this machine: whoever reaches the port may do everything."
    )
    http_token: Token = Field(
        NO_TOKEN, description="The token that HTTP requests must bring; beyond this machine one is needed."
    )
    http_read_token: Token = Field(NO_TOKEN, description="A further token, which is good for GET and HEAD only.")

    def access(self, host: str, *, basic: bool = False) -> Access:
        """What a service on ``host`` demands. Raises ``ConfigurationError`` when that would leave it open to a network."""
        setting = self.names("http_token")[0]
        token, read_token = self.http_token.get_secret_value(), self.http_read_token.get_secret_value()
        if read_token and not token:
            raise ConfigurationError(
                f"setting {self.names('http_read_token')[0]}: it is set, but {setting} is not",
                hint="without it nobody could write",
            )
        if not token:
            refuse_open_bind(host, self.http_insecure, setting.removesuffix("_HTTP_TOKEN"), token_setting=setting)
        return Access(token, read_token, setting, basic)
