"""Of rounds, participants and updates."""
