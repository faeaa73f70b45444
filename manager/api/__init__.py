"""The manager over HTTP: its routes and the shape of its answers."""
