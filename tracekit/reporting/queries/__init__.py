"""The SQL of the pictures: aggregated to at most a few thousand points each."""
