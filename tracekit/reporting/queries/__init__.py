"""The SQL of pictures and tables: each result is at most a few thousand rows."""
