"""What a guest may import: WASI, as far as it is there. Everything else is refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from proplet.sandbox.declared import Import
from proplet.sandbox.entry import GuestError

PREVIEW1 = "wasi_snapshot_preview1"
FUNCTIONS = frozenset(
    {
        "args_get",
        "args_sizes_get",
        "clock_res_get",
        "clock_time_get",
        "environ_get",
        "environ_sizes_get",
        "fd_advise",
        "fd_allocate",
        "fd_close",
        "fd_datasync",
        "fd_fdstat_get",
        "fd_fdstat_set_flags",
        "fd_fdstat_set_rights",
        "fd_filestat_get",
        "fd_filestat_set_size",
        "fd_filestat_set_times",
        "fd_pread",
        "fd_prestat_dir_name",
        "fd_prestat_get",
        "fd_pwrite",
        "fd_read",
        "fd_readdir",
        "fd_renumber",
        "fd_seek",
        "fd_sync",
        "fd_tell",
        "fd_write",
        "path_create_directory",
        "path_filestat_get",
        "path_filestat_set_times",
        "path_link",
        "path_open",
        "path_readlink",
        "path_remove_directory",
        "path_rename",
        "path_symlink",
        "path_unlink_file",
        "poll_oneoff",
        "proc_exit",
        "proc_raise",
        "random_get",
        "sched_yield",
        "sock_accept",
        "sock_recv",
        "sock_send",
        "sock_shutdown",
    }
)
INTERFACES = {
    "cli": "environment exit stdin stdout stderr terminal-input terminal-output terminal-stdin terminal-stdout terminal-stderr",
    "clocks": "monotonic-clock wall-clock",
    "filesystem": "types preopens",
    "io": "error poll streams",
    "random": "random insecure insecure-seed",
    # There, because programs in Python and Rust import them unasked; no address is allowed to any of them.
    "sockets": "network instance-network ip-name-lookup tcp tcp-create-socket udp udp-create-socket",
}
INTERFACE = re.compile(r"wasi:([a-z-]+)/([a-z-]+)@0\.2\.\d+")
HTTP = re.compile(r"wasi:http/.*")


def check(imports: Iterable[Import]) -> None:
    """Of a core module. Raises ``GuestError`` for the first that is not allowed."""
    for wanted in imports:
        if wanted.module != PREVIEW1 or wanted.name not in FUNCTIONS or wanted.kind != "function":
            raise GuestError(
                f"the module imports the {wanted.kind} {wanted.module[:100]}::{wanted.name[:100]}; "
                f"it may import the functions of {PREVIEW1} alone",
                "import_not_allowed",
            )


def check_component(names: Iterable[str], exports: Iterable[str]) -> None:
    """Of a component. Raises ``GuestError`` for the first that is not allowed; ``exports`` tell what HTTP is for."""
    serving = next((name for name in exports if HTTP.fullmatch(name)), None)
    if serving is not None:
        raise GuestError(
            f"the component exports {serving[:200]}: a proplet runs guests, it does not serve HTTP with them",
            "http_unsupported",
        )
    for name in names:
        if HTTP.fullmatch(name):
            raise GuestError(
                f"the component imports {name[:200]}: HTTP is not offered, as the hosts could not be limited",
                "http_unsupported",
            )
        matched = INTERFACE.fullmatch(name)
        if matched is None or matched[2] not in INTERFACES.get(matched[1], "").split():
            raise GuestError(
                f"the component imports {name[:200]}; it may import the interfaces of WASI 0.2 alone",
                "import_not_allowed",
            )
