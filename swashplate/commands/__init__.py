"""The commands that speak to a manager. They know its HTTP API only, through ``swashplate.client``."""
