"""What runs in the proplet's worker processes: the guest, its limits, its module. Only the standard library and wasmtime."""
