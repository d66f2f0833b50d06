"""Hooks of Python libraries, one library a module."""
