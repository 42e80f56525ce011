"""Data: variables, sources, simulated worlds, splits and statistics."""
