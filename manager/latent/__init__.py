"""Tasks that are deployed and called."""
