"""A loader as frameworks have it: samples in an order, read by workers, handed over in batches."""
