"""The trace on disk: journal, segments, and the reader that hands DuckDB the view `ops`."""
