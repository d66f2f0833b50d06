"""Logs of delimited or JSON text."""
