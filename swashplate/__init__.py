"""The shared kernel: what every role imports and nothing that belongs to one role."""

__version__ = "0.1.0"
