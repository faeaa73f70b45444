"""Where an MQTT broker is, and how it is spoken to."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from swashplate.errors import ConfigurationError

_TLS_SCHEMES = {"ssl", "tls", "mqtts", "tcps"}


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """The certificates are files; without ``ca_cert`` those of the system count."""

    host: str
    port: int
    tls: bool = False
    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""
    insecure_skip_verify: bool = False

    @classmethod
    def parse(cls, url: str, **tls: Any) -> BrokerAddress:
        """``tcp://host:1883``, ``ssl://host:8883`` or ``host:port``; raises ``ConfigurationError``."""
        parts = urlsplit(url if "://" in url else f"tcp://{url}")
        secure = parts.scheme in _TLS_SCHEMES
        if not secure and parts.scheme not in {"tcp", "mqtt"}:
            raise ConfigurationError(f"MQTT address {url!r}: unknown scheme {parts.scheme!r}", hint="tcp:// or ssl://")
        if parts.username or parts.password:
            raise ConfigurationError(
                f"MQTT address of {parts.hostname}: user and key do not belong here",
                hint="they have settings of their own",
            )
        try:
            port = parts.port or (8883 if secure else 1883)
        except ValueError as error:
            raise ConfigurationError(f"MQTT address {url!r}: {error}") from error
        if not parts.hostname:
            raise ConfigurationError(f"MQTT address {url!r} names no host", hint="for example tcp://localhost:1883")
        return cls(host=parts.hostname, port=port, tls=secure, **tls)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext:
        """Raises ``ConfigurationError`` naming the file that cannot be used."""
        context: ssl.SSLContext = _using(self.ca_cert, lambda: ssl.create_default_context(cafile=self.ca_cert or None))
        if self.client_cert:
            # A password would be asked for on the terminal, where nobody may be.
            key = self.client_key or None
            _using(self.client_cert, lambda: context.load_cert_chain(self.client_cert, key, password=""), key or "")
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _using(file: str, load: Any, other: str = "") -> Any:
    try:
        return load()
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        files = f"{file} with {other}" if other else file
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot use the certificate {files}: {reason}") from error
