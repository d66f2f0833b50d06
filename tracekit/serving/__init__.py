"""Serving traces to others: the page with a query box on the loopback, and tools for language models (MCP)."""
