"""``python -m swashplate``."""

from swashplate.cli import main

main()
