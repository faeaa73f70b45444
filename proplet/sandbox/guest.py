"""One run of a guest in this process: its limits, its files, its entry, and how it ended."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import wasmtime
from wasmtime import component

from proplet.sandbox import entry
from proplet.sandbox.entry import COMMAND, Exited, GuestError
from proplet.sandbox.frames import Answer, Job
from proplet.sandbox.module_cache import CommandComponent, CoreModule, Loaded, ModuleCache

TABLE_ELEMENTS = 100_000
CORE_INSTANCES, COMPONENT_INSTANCES = 1, 64
CORE_TABLES, COMPONENT_TABLES = 8, 64


def run(job: Job, modules: ModuleCache, stderr: str) -> Answer:
    """Run ``job``; the guest's stderr goes to the file ``stderr``. Never raises for what a guest does."""
    compiled, text = False, None
    try:
        loaded, compiled = modules.load(job.digest, Path(job.binary))
        if job.precompile:
            _check_entry(job, loaded)
            return Answer(compiled=compiled)
        with _bounded_files(job.limits.output):
            if isinstance(loaded, CoreModule):
                text = _run_core(job, loaded, _store(job, modules, stderr, CORE_INSTANCES, CORE_TABLES))
            else:
                store = _store(job, modules, stderr, COMPONENT_INSTANCES, COMPONENT_TABLES)
                text = None
                _run_component(job, loaded, modules.engine, store)
    except GuestError as error:
        return Answer(error=error.sentence, code=error.code, reusable=error.reusable, compiled=compiled)
    except Exited as ended:
        return _exited(ended.status, compiled)
    except wasmtime.ExitTrap as ended:
        return _exited(ended.code, compiled)
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        return Answer(error=_cause(error), code="guest_trap", reusable=False, compiled=compiled)
    return Answer(text=text, compiled=compiled)


def _check_entry(job: Job, loaded: Loaded) -> None:
    """Raises ``GuestError`` for what a run would refuse before it begins."""
    if isinstance(loaded, CoreModule):
        entry.choose(job.name, job.cli_args, loaded.exports)
    else:
        _check_component(job)


def _check_component(job: Job) -> None:
    if entry.invoked(job.cli_args) is not None:
        raise GuestError("--invoke does not apply to a component", "component_unsupported")


def _exited(status: int, compiled: bool) -> Answer:
    if status == 0:
        return Answer(compiled=compiled)
    return Answer(error=f"process exited with status {status}", code="guest_exit", compiled=compiled)


@contextlib.contextmanager
def _bounded_files(limit: int) -> Iterator[None]:
    """No file grows beyond ``limit`` bytes: a guest that tries is told EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit + 1, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _store(job: Job, modules: ModuleCache, stderr: str, instances: int, tables: int) -> wasmtime.Store:
    """A store with every limit set and with nothing but the job's own files, arguments and environment."""
    folder = Path(job.folder)
    wasi = wasmtime.WasiConfig()
    wasi.argv = [job.name, *job.inputs]
    wasi.env = list(job.env.items())
    wasi.stdout_file = str(folder / "stdout")
    wasi.stderr_file = stderr
    wasi.preopen_dir(str(folder / "in"), "/in", False)  # read-only; it takes no keyword
    wasi.preopen_dir(str(folder / "out"), "/out", True)
    store = wasmtime.Store(modules.engine)
    store.set_limits(
        memory_size=job.limits.memory, table_elements=TABLE_ELEMENTS, instances=instances, tables=tables, memories=1
    )
    store.set_wasi(wasi)
    return store


def _run_core(job: Job, module: CoreModule, store: wasmtime.Store) -> str | None:
    export = entry.choose(job.name, job.cli_args, module.exports)
    exports = module.prepared.instantiate(store).exports(store)
    called = exports[export]
    assert isinstance(called, wasmtime.Func)
    kind = called.type(store)
    if export == COMMAND:
        entry.check_command([str(param) for param in kind.params])
        called(store)
        return None
    arguments = entry.arguments([str(param) for param in kind.params], job.inputs)
    if module.exports.get("_initialize"):
        initialize = exports["_initialize"]
        assert isinstance(initialize, wasmtime.Func)
        initialize(store)
    returned = called(store, *arguments)
    kinds = [str(result) for result in kind.results]
    values = returned if isinstance(returned, list) else [] if returned is None else [returned]
    return " ".join(entry.decimal(kind, value) for kind, value in zip(kinds, values, strict=True))


def _run_component(job: Job, loaded: CommandComponent, engine: wasmtime.Engine, store: wasmtime.Store) -> None:
    _check_component(job)
    linker = component.Linker(engine)
    linker.add_wasip2()
    try:
        instance = linker.instantiate(store, loaded.component)
    except wasmtime.ExitTrap:
        raise
    except wasmtime.WasmtimeError as error:
        raise GuestError(f"the component cannot be instantiated: {_cause(error)}", "guest_link") from error
    run_export = instance.get_export_index(store, "run", instance.get_export_index(store, loaded.run))
    function = instance.get_func(store, run_export) if run_export is not None else None
    if function is None:
        raise GuestError(f"{loaded.run} has no function run", "component_unsupported")
    outcome = function(store)
    function.post_return(store)
    if outcome.tag != "ok":
        raise GuestError("process exited with status 1", "guest_exit")


def _cause(error: Exception) -> str:
    """The reason alone, of a message that begins with a backtrace."""
    cause = str(error).rpartition("Caused by:")[2]
    return " ".join(cause.split())[:500] or type(error).__name__
