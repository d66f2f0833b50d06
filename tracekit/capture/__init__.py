"""Recording what other people's code reads: one hook a module."""
