"""The registry proxy: resolves image references, fetches binaries once, and sends them to every proplet that waits."""
