"""A recording reverse proxy for S3 on the loopback: it sees the requests of clients in any language."""
