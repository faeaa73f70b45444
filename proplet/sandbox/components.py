"""What a component exports, and one call of it: of its command, or of a function whose values are WAVE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import wasmtime
from wasmtime import component

from proplet.sandbox import entry, wave
from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import Job
from proplet.sandbox.module_cache import LoadedComponent
from proplet.sandbox.values import described, lifted, lowered

MAX_RESULT = 512 * 1024
"""Bytes of a result as text; in a frame each can take six."""


def exports(engine: wasmtime.Engine, made: component.Component) -> dict[str, bool]:
    """Says of each export whether it is a function; the functions of an instance are there as ``instance#func``."""
    found: dict[str, bool] = {}
    for name, extern in made.type.exports(engine).items():
        item = extern.ty
        found[name] = isinstance(item, component.FuncType)
        if isinstance(item, component.ComponentInstanceType):
            for inner, inner_extern in item.exports(engine).items():
                if isinstance(inner_extern.ty, component.FuncType):
                    found[f"{name}#{inner}"] = True
    return found


@dataclass(frozen=True)
class Call:
    """Of the function ``path`` of a component, which is ``func`` or ``instance#func``; without ``params`` and with no
    ``result`` of its own when it is the command.
    """

    path: str
    params: tuple[tuple[str, wave.Type], ...]
    result: wave.Type | None

    @classmethod
    def chosen(cls, job: Job, loaded: LoadedComponent) -> Self:
        """What ``job`` runs. Raises ``GuestError`` when there is no such function, and when nobody could call it."""
        path = entry.choose_in_component(job.name, job.cli_args, loaded.exports)
        kind = _function_type(loaded, path)
        try:
            params = tuple((name, described(param)) for name, param in kind.params)
            result = None if kind.result is None else described(kind.result)
        except GuestError as error:
            raise GuestError(f"{path} cannot be called with text: {error.sentence}", error.code) from error
        call = cls(path, params, result)
        if call.command and (params or result != wave.Result(None, None)):
            raise GuestError(f"{path} must take nothing and return a result without values", "guest_link")
        return call

    @property
    def command(self) -> bool:
        return entry.RUN.fullmatch(self.path) is not None

    def arguments(self, inputs: Sequence[str]) -> list[wave.Value]:
        """None for the command. Raises ``GuestError``."""
        if self.command:
            return []
        if len(inputs) != len(self.params):
            wanted = ", ".join(f"{name}: {kind}" for name, kind in self.params)
            raise GuestError(
                f"the function takes {len(self.params)} argument{'s' * (len(self.params) != 1)} ({wanted}), got {len(inputs)} input{'s' * (len(inputs) != 1)}",
                "invalid_inputs",
            )
        return [_argument(at, *pair) for at, pair in enumerate(zip(self.params, inputs, strict=True))]

    def run(self, arguments: Sequence[wave.Value], instance: component.Instance, store: wasmtime.Store) -> str | None:
        """The result as text, None after the command. Raises ``GuestError`` and wasmtime's errors."""
        index = None
        for name in filter(None, self.path.rpartition("#")[::2]):
            index = instance.get_export_index(store, name, index)
        function = None if index is None else instance.get_func(store, index)
        assert function is not None, "chosen from the exports"
        kinds = [kind for _, kind in self.params]
        returned = function(store, *map(lowered, kinds, arguments))
        function.post_return(store)
        if self.command:
            if returned.tag != "ok":
                raise GuestError("process exited with status 1", "guest_exit")
            return None
        if self.result is None:
            return ""
        try:
            return wave.write(self.result, lifted(self.result, returned), MAX_RESULT)
        except wave.TooLong as error:
            raise GuestError(f"the result is over the limit of {MAX_RESULT} bytes", "output_limit") from error


def _function_type(loaded: LoadedComponent, path: str) -> component.FuncType:
    instance, _, name = path.rpartition("#")
    listed = loaded.component.type.exports(loaded.engine)
    if instance:
        inside = listed[instance].ty
        assert isinstance(inside, component.ComponentInstanceType)
        listed = inside.exports(loaded.engine)
    kind = listed[name].ty
    assert isinstance(kind, component.FuncType)
    return kind


def _argument(at: int, param: tuple[str, wave.Type], text: str) -> wave.Value:
    """A string may be given as it is, without the quotes."""
    name, kind = param
    if isinstance(kind, wave.String) and not text.startswith('"'):
        return text
    try:
        return wave.read(kind, text)
    except wave.WaveError as error:
        raise GuestError(f"input {at} ({name}): {error}", "invalid_inputs") from error
