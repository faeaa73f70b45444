"""Compiles every .wat file beside this one: ``python examples/build.py``. The results are committed, nobody has to."""

from pathlib import Path

import wasmtime

for source in sorted(Path(__file__).parent.glob("*.wat")):
    source.with_suffix(".wasm").write_bytes(wasmtime.wat2wasm(source.read_text(encoding="utf-8")))
