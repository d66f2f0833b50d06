"""One job on many hosts: traces joined on one time axis, and one trace replayed from many hosts."""
