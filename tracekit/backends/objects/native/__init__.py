"""tracekit's own HTTP/1.1 client for object stores: one request sent once, every byte of it accounted for."""
