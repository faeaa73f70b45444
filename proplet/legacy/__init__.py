"""A Propeller manager, spoken to on its shared topics."""
