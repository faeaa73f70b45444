"""The site's local data store: ``python -m proplet.data_store``."""
