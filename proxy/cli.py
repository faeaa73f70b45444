"""The proxy's commands: ``proxy``, ``oci-registry``, ``push`` and ``image``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

USER_NAMES = ["REGISTRY_USERNAME", "ORAS_USER"]
PASSWORD_NAMES = ["REGISTRY_PASSWORD", "ORAS_PASSWORD", "ORAS_PASS"]


def proxy() -> None:
    """Run the registry proxy: fetch binaries and send them to proplets."""
    from proxy.__main__ import main

    main()


def oci_registry() -> None:
    """Run an OCI registry for this machine."""
    from proxy.registry import main

    main()


Username = Annotated[
    str,
    typer.Option(help="The user at the registry; without it, docker's stored login.", envvar=USER_NAMES),
]
Password = Annotated[
    str,
    typer.Option(
        help="That user's password or token; others on this machine can read a command line, so better by the environment"
        " or by --password-stdin.",
        envvar=PASSWORD_NAMES,
    ),
]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
PlainHttp = Annotated[bool, typer.Option("--plain-http", help="Speak HTTP without TLS; on localhost it is the rule.")]
TokenService = Annotated[
    str,
    typer.Option(
        help="A host besides the registry's that may be sent the password for a token.",
        envvar="PROXY_REGISTRY_TOKEN_SERVICES",
    ),
]


def push(
    file: Annotated[Path, typer.Argument(help="The .wasm file.", metavar="FILE")],
    reference: Annotated[str, typer.Argument(help="Where to, such as localhost:5000/name:tag.", metavar="REF")],
    media_type: Annotated[str, typer.Option(help="The layer's media type.")] = "application/wasm",
    username: Username = "",
    password: Password = "",
    password_stdin: PasswordStdin = False,
    plain_http: PlainHttp = False,
    token_service: TokenService = "",
) -> None:
    """Push a WASM binary to a registry."""
    from proxy import logins, manifests, reach
    from proxy.push import push as push_file
    from swashplate import references

    target = references.parse(reference)
    done = push_file(
        file,
        target,
        endpoints=reach.endpoints_for(target, plain_http=plain_http),
        credentials=logins.of_command(
            target.registry,
            username=username,
            password=_password(password, from_stdin=password_stdin),
            token_services=token_service,
        ),
        media_type=media_type,
    )
    print(f"Pushed [registry] {done.reference}")
    print(f"ArtifactType: {manifests.ARTIFACT_TYPE}")
    print(f"Digest: {done.manifest_digest}")
    print(f"Binary: {done.binary_digest} ({done.size} bytes)")


image = typer.Typer(add_completion=False, no_args_is_help=True)


@image.callback()
def image_group() -> None:
    """What registries have."""


@image.command("inspect")
def inspect_image(
    reference: Annotated[str, typer.Argument(help="The image, by tag or by digest.", metavar="REF")],
    raw: Annotated[bool, typer.Option("--raw", help="Only the manifest, byte for byte.")] = False,
    username: Username = "",
    password: Password = "",
    password_stdin: PasswordStdin = False,
    plain_http: PlainHttp = False,
    token_service: TokenService = "",
) -> None:
    """Show an image's manifest, and the WASM binary that a proplet would run."""
    import asyncio

    from proxy import logins, reach
    from proxy.inspection import inspect
    from swashplate import references

    wanted = references.parse(reference)
    credentials = logins.of_command(
        wanted.registry,
        username=username,
        password=_password(password, from_stdin=password_stdin),
        token_services=token_service,
    )
    found = asyncio.run(inspect(wanted, reach.endpoints_for(wanted, plain_http=plain_http), credentials))
    if raw:
        sys.stdout.buffer.write(found.manifest.content)
    else:
        print("\n".join(found.lines()))


def _password(given: str, *, from_stdin: bool) -> str:
    """Standard input wins: whoever asks for it may have another password in the environment."""
    if not from_stdin:
        return given
    from swashplate.errors import InvalidRequestError

    read = sys.stdin.readline().rstrip("\r\n")
    if not read:
        raise InvalidRequestError(
            "--password-stdin: standard input is empty", hint="for example: echo $GITHUB_TOKEN | swashplate push …"
        )
    return read
