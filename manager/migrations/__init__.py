"""How the manager's tables came to be what they are."""
