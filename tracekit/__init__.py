"""tracekit: record how a loader reads storage, understand it with SQL, re-drive it faithfully."""

__version__ = "0.1.0"
