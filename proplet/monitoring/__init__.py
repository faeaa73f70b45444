"""What the proplet and its tasks use."""
