"""Ready questions about a trace. Each is a query in `queries/`, named by its file."""
