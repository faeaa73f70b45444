"""How the coordinator's databases came to be what they are."""
