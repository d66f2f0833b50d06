"""Comparing two traces: parity, divergence, gates. Knows the store and the metrics only."""
