"""Guest programs that a proplet runs at a site, and the demo that shows them learning together.

``fl-client.c`` is the source of ``fl-client.wasm``; ``python -m client_wasm build`` makes one from the other.
"""
