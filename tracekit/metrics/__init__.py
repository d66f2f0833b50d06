"""Metrics of traces: SQL definitions (library), exact peaks (sweep), and the snapshot of all of them."""
