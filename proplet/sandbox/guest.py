"""One run of a guest in this process: its store, its files, its entry, and how it ended."""

from __future__ import annotations

import wasmtime

from proplet.sandbox import entry, failures, granted, instance, pooling, wasi
from proplet.sandbox.components import Call
from proplet.sandbox.declared import PAGE
from proplet.sandbox.engine import USUAL, Configuration
from proplet.sandbox.entry import COMMAND, INITIALIZE, TYPE_UNSUPPORTED, Exited, GuestError
from proplet.sandbox.failures import Grown, Growth
from proplet.sandbox.frames import NOT_COMPILED, Answer, Job, Limits
from proplet.sandbox.module_cache import CoreModule, Loaded, LoadedComponent, ModuleCache, NotCompiled, Signature
from proplet.sandbox.preview1 import linking

CORE_INSTANCES, COMPONENT_INSTANCES = 1, 64
MEMORY = "memory"
COMPONENT_TABLES = 64


def run(job: Job, modules: ModuleCache, stderr: int) -> Answer:
    """Run ``job``; the guest's stderr goes to the descriptor ``stderr``. Never raises for what a guest does.

    Of ``Answer.used`` only the memory, the fuel and, of a run that failed, the table are filled in.
    """
    guest: Guest | None = None
    text, failure, grown = None, None, Grown()
    try:
        loaded = modules.load(job.digest, configuration(job))
        if job.precompile:
            _check_entry(job, loaded)
        else:
            if job.directories:
                granted.room(job)
            guest = Guest(job, loaded, stderr)
            text = guest.run()
    except NotCompiled:
        return Answer(error="the compiled module is not there", code=NOT_COMPILED)
    except (GuestError, Exited, wasmtime.Trap, wasmtime.WasmtimeError, MemoryError) as ended:
        grown = guest.grown() if guest else grown
        failure = _failure(ended, job.limits, grown)
    used: dict[str, float] = {}
    if guest is not None:
        used = guest.used()
        guest.close()
    if failure is not None and grown.table is not None:
        used["table_elements"] = grown.table.after
    if failure is None:
        return Answer(text=text, used=used)
    if guest is not None and guest.refused:
        failure = failures.refused(failure, guest.refused)
    return Answer(error=failure.sentence, code=failure.code, reusable=failure.reusable, used=used)


def configuration(job: Job) -> Configuration:
    """How the module of ``job`` is loaded."""
    limits = job.limits
    asked = Configuration(limits.fuel > 0, job.deterministic, limits.stack)
    fits = limits.memory <= pooling.MEMORY and limits.table_elements <= pooling.ELEMENTS
    return USUAL if fits and asked == USUAL._replace(pooled=False) and not linking.replaces(job) else asked


def _failure(ended: Exception, limits: Limits, grown: Grown) -> GuestError | None:
    """None for an exit with status 0."""
    if isinstance(ended, GuestError):
        return ended
    if isinstance(ended, Exited | wasmtime.ExitTrap):
        status = ended.status if isinstance(ended, Exited) else ended.code
        return failures.exited(status, limits, grown) if status else None
    return failures.failed(ended, limits, grown)


def _check_entry(job: Job, loaded: Loaded) -> None:
    """Raises ``GuestError`` for what a run would refuse before it begins."""
    if isinstance(loaded, LoadedComponent):
        _call(job, loaded)
        return
    name = _chosen(job, loaded)
    for export in loaded.module.exports:
        if export.name == name and isinstance(export.type, wasmtime.FuncType):
            entry.check_signature(name, _texts(export.type.params), _texts(export.type.results))


def _chosen(job: Job, module: CoreModule) -> str:
    export = entry.choose(job.name, job.cli_args, module.exports)
    for name in (export, INITIALIZE):
        if name in module.vectors:
            raise GuestError(f"{name} takes or returns v128, which is no number", TYPE_UNSUPPORTED)
    return export


def _call(job: Job, loaded: LoadedComponent) -> Call:
    if linking.replaces(job):
        raise GuestError(
            "a component cannot run deterministically, nor without the clock or random numbers",
            "unsupported_for_components",
        )
    return Call.chosen(job, loaded)


def _texts(kinds: list[wasmtime.ValType]) -> list[str]:
    return [str(kind) for kind in kinds]


class Guest:
    """A store with every limit set and with nothing but the job's own files, arguments and environment."""

    def __init__(self, job: Job, loaded: Loaded, stderr: int) -> None:
        self.limits = job.limits
        self.refused: list[str] = []
        """What it asked for and may not use."""
        self._job = job
        self._loaded = loaded
        self._memory: wasmtime.Memory | None = None
        self._made: wasmtime.Instance | None = None
        self._store = wasmtime.Store(loaded.engine)
        own = isinstance(loaded, CoreModule) and linking.replaces(job)
        core = isinstance(loaded, CoreModule)
        self._store.set_limits(
            memory_size=job.limits.memory,
            table_elements=job.limits.table_elements,
            instances=(linking.INSTANCES if own else CORE_INSTANCES) if core else COMPONENT_INSTANCES,
            tables=pooling.TABLES if core else COMPONENT_TABLES,
            memories=linking.INSTANCES if own else 1,
        )
        if job.limits.fuel:
            self._store.set_fuel(job.limits.fuel)
        self._store.set_wasi(wasi.configured(job, stderr))

    def run(self) -> str | None:
        """What a function returned. Raises ``GuestError``, ``Exited`` and wasmtime's errors."""
        if isinstance(self._loaded, CoreModule):
            return self._run_core(self._loaded)
        return self._run_component(self._loaded)

    def grown(self) -> Grown:
        """As far as it exports its memory and its tables. It asks for every export: only for a run that failed."""
        memory = None
        if self._memory is not None:
            least = self._memory.type(self._store).limits.min * PAGE
            memory = Growth(least, self._memory.data_len(self._store))
        tables = []
        if self._made is not None:
            exports = [name for name, function in self._loaded.exports.items() if not function]
            found = instance.tables(self._store, self._made, exports)
            tables = [Growth(each.type(self._store).limits.min, each.size(self._store)) for each in found]
        return Grown(memory, max(tables, key=lambda table: table.after, default=None))

    def used(self) -> dict[str, float]:
        used: dict[str, float] = {}
        if self._memory is not None:
            used["memory_bytes"] = self._memory.data_len(self._store)
        if self.limits.fuel:
            used["fuel"] = self.limits.fuel - self._store.get_fuel()
        return used

    def close(self) -> None:
        """Give its memory and its open files back, whoever still holds this: an exception that wasmtime's Python raised is
        held in one of its own frames, and would keep them until the garbage is collected.
        """
        self._memory = self._made = None
        self._store.close()

    def _run_core(self, module: CoreModule) -> str | None:
        job, store = self._job, self._store
        export = _chosen(job, module)
        if linking.replaces(job):
            functions = linking.OwnFunctions(job, store, [path for _, path, _ in wasi.directories(job)])
            self.refused = functions.refused
            made = functions.linker.instantiate(store, module.module)
        else:
            made = instance.instantiate(store, module.prepared)
        self._made = made
        if MEMORY in module.exports:
            self._memory = instance.memory(store, made, MEMORY)
        called = instance.function(store, made, export)
        params, results = self._signature(module, export, called)
        entry.check_signature(export, params, results)
        if export == COMMAND:
            if results:  # which nobody asked for
                called(store)
            else:
                instance.call_command(store, called)
            return None
        arguments = entry.arguments(params, job.inputs)
        if module.exports.get(INITIALIZE) and export != INITIALIZE:
            initialize = instance.function(store, made, INITIALIZE)
            entry.check_signature(INITIALIZE, _texts(initialize.type(store).params), [])
            initialize(store)
        returned = called(store, *arguments)
        values = returned if isinstance(returned, list) else [] if returned is None else [returned]
        return " ".join(entry.decimal(result, value) for result, value in zip(results, values, strict=True))

    def _signature(self, module: CoreModule, export: str, function: wasmtime.Func) -> Signature:
        known = module.signatures.get(export)
        if known is None:
            kind = function.type(self._store)
            known = module.signatures[export] = _texts(kind.params), _texts(kind.results)
        return known

    def _run_component(self, loaded: LoadedComponent) -> str | None:
        call = _call(self._job, loaded)
        arguments = call.arguments(self._job.inputs)
        try:
            made = loaded.linker.instantiate(self._store, loaded.component)
        except wasmtime.ExitTrap:
            raise
        except wasmtime.WasmtimeError as error:
            failure = failures.failed(error, self.limits, Grown())
            code = "guest_link" if failure.code == failures.OTHER else failure.code
            sentence = f"the component cannot be instantiated: {failure.sentence}"
            raise GuestError(sentence, code, reusable=False) from error
        return call.run(arguments, made, self._store)
