"""The proplets: who they are, how they are, and those of Propeller."""
