#!/usr/bin/env python3
"""Provision in SuperMQ: make or find the domain, the clients and the channel, and write ids and keys to the env file.

Runs with any Python from 3.9 on, from any directory, with nothing installed. `swashplate provision supermq` is the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    # Python looks for modules beside a script. Ours are one folder up, and nothing in this one is to be taken for another.
    sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path).resolve() != ROOT / "provision")]

import argparse
import os
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from provision import env_file as env
from provision import files
from provision.credentials import is_ours, table
from provision.enrolment import enrol
from provision.supermq import PORTS, SuperMQ
from provision.supermq_http import Address
from swashplate.errors import ConfigurationError, SwashplateError
from swashplate.words import counted

WAIT_S = 30.0
LONGEST_WAIT_S = 3600.0
MOST_PROPLETS = 1000


def parser(program: str, env_file: Path, environ: Mapping[str, str]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=program,
        description="Make or find domain fl-demo, its clients and channel fl in SuperMQ (or our identity service), and"
        " write their ids and keys to the env file. A second run changes nothing.",
        epilog="The URLs, user and password can also be set as SMQ_URL, SMQ_USERS_URL, SMQ_DOMAINS_URL,"
        " SMQ_CHANNELS_URL, SMQ_CLIENTS_URL, SMQ_USER and SMQ_PASSWORD; an option wins.",
    )

    def variable(name: str, otherwise: str | None = None) -> str | None:
        return environ.get(name) or otherwise

    made.add_argument(
        "command", nargs="?", choices=["clear"], help="blank the ids and keys in the env file instead, and nothing else"
    )
    made.add_argument("--env-file", type=Path, default=env_file, help="the file that is updated (%(default)s)")
    made.add_argument("--count", type=int, default=3, metavar="N", help="how many proplets (%(default)s)")
    made.add_argument(
        "--url", default=variable("SMQ_URL", "http://localhost"), help="where all four services are, without a port"
    )
    for service, port in PORTS.items():
        made.add_argument(
            f"--{service}-url",
            default=variable(f"SMQ_{service.upper()}_URL"),
            metavar="URL",
            help=f"where the {service} service is, when not on port {port} there",
        )
    made.add_argument("--port-offset", type=int, default=0, metavar="N", help="added to the ports of --url")
    made.add_argument("--user", default=variable("SMQ_USER", "admin"), help="the administrator (admin)")
    made.add_argument(
        "--password",
        default=variable("SMQ_PASSWORD", "12345678"),
        help="its password (12345678); SMQ_PASSWORD does not show in the list of processes",
    )
    made.add_argument(
        "--wait", type=float, default=WAIT_S, metavar="SECONDS", help="for each service at most (%(default)g)"
    )
    return made


def addresses(options: argparse.Namespace) -> dict[str, Address]:
    """Where the four services are, by the options."""
    everywhere = Address.parse("SuperMQ", options.url)
    if urlsplit(options.url).port is not None:
        raise ConfigurationError(
            f"--url must not have a port: {options.url!r}", hint="give --users-url and the like to name four ports"
        )
    scheme, host = ("https" if everywhere.tls else "http"), everywhere.host
    base = f"{scheme}://[{host}]" if ":" in host else f"{scheme}://{host}"
    found = {}
    for service, port in PORTS.items():
        url = getattr(options, f"{service}_url")
        found[service] = Address.parse(service, url or f"{base}:{port + options.port_offset}{everywhere.path}")
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(arguments: Sequence[str], *, program: str, env_file: Path) -> None:
    """Do what the command line asks for; raises ``SwashplateError`` when it cannot be done."""
    options = parser(program, env_file, os.environ).parse_intermixed_args(arguments)
    if options.command == "clear":
        clear(options.env_file)
    else:
        provision(options)


def provision(options: argparse.Namespace) -> None:
    path: Path = options.env_file
    if not 1 <= options.count <= MOST_PROPLETS:
        raise ConfigurationError(f"--count must be between 1 and {MOST_PROPLETS}, not {options.count}")
    if not 0 <= options.wait <= LONGEST_WAIT_S:
        raise ConfigurationError(f"--wait must be between 0 and {LONGEST_WAIT_S:g} seconds, not {options.wait:g}")
    api = SuperMQ(addresses(options))
    env.check(path)
    api.wait(options.wait, say)
    with files.locked(path, lambda: say(f"waiting for another run that provisions {path}")):
        api.log_in(options.user, options.password)
        found = enrol(api, env.read(path), options.count, say)
        try:
            changed = env.update(path, found.as_env(), example=path.with_name(".env.example"))
        finally:
            # Also when the file could not be written: then the lines can be copied from here.
            print("\n".join(table(found, show_keys=True)), flush=True)
    if changed:
        print(f"\nUpdated {path}. Start the services again, so that they read it.")
    else:
        print(f"\nNothing changed: {path} already holds all of it.")


def clear(path: Path) -> None:
    """Blank every variable of ours that has a value; nothing else changes, and no line goes."""
    env.check(path)
    with files.locked(path):
        known = [key for key, value in env.read(path).items() if is_ours(key) and value]
        if not known:
            print(f"Nothing to clear: {path} has no id and no key.")
            return
        env.update(path, dict.fromkeys(known, ""))
    print(f"Blanked {counted(len(known), 'variable')} in {path}: {', '.join(known)}.")
    print(f"They are still in {path}.bak, and the clients still exist: provisioning takes them by their names.")


def main() -> int:
    """0, or 1 after one sentence and a hint on stderr."""
    try:
        run(sys.argv[1:], program=Path(sys.argv[0]).name, env_file=ROOT / ".env")
        sys.stdout.flush()
    except SwashplateError as error:
        say(f"error: {error.sentence}")
        if error.hint:
            say(f"hint: {error.hint}")
    except KeyboardInterrupt:
        say("interrupted; run it again, it continues where it stopped")
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
