"""The proxy's commands: ``proxy``, ``oci-registry`` and ``push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def proxy() -> None:
    """Run the registry proxy: fetch binaries and send them to proplets."""
    from proxy.__main__ import main

    main()


def oci_registry() -> None:
    """Run an OCI registry for this machine."""
    from proxy.registry import main

    main()


def push(
    file: Annotated[Path, typer.Argument(help="The .wasm file.", metavar="FILE")],
    reference: Annotated[str, typer.Argument(help="Where to, such as localhost:5000/name:tag.", metavar="REF")],
    media_type: Annotated[str, typer.Option(help="The layer's media type.")] = "application/wasm",
    username: Annotated[
        str, typer.Option(help="The user at the registry; without it, docker's stored login.", envvar="ORAS_USER")
    ] = "",
    password: Annotated[str, typer.Option(help="That user's password or token.", envvar="ORAS_PASSWORD")] = "",
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Speak HTTP without TLS; on localhost it is the rule.")
    ] = False,
) -> None:
    """Push a WASM binary to a registry."""
    import os

    from proxy import references
    from proxy.push import push as push_file

    target = references.parse(reference)
    aliases = os.environ.get("SWASHPLATE_REGISTRY_ALIASES") or os.environ.get("PROXY_REGISTRY_ALIASES") or ""
    endpoints = references.endpoints(aliases=aliases, plain_http=target.registry if plain_http else "")
    done = push_file(file, target, endpoints=endpoints, media_type=media_type, username=username, password=password)
    print(f"Pushed [registry] {done.reference}")
    print(f"Digest: {done.manifest_digest}")
    print(f"Binary: {done.binary_digest} ({done.size} bytes)")
