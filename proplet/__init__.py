"""The proplet: the process at the edge that runs WebAssembly tasks on data which never leaves its site."""
