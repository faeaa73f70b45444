"""The manager: knows tasks and proplets, and nothing about learning but the façade that forwards it."""
