"""WASI preview 1 functions of our own, in place of wasmtime's, for runs that are deterministic or may not use everything."""
