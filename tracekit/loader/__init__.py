"""A data loader: samples in an order, read by workers, returned in batches."""
