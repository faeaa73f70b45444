"""``python -m proplet.data_store``."""

from proplet.data_store.app import main

if __name__ == "__main__":
    main()
