"""Logs of system calls."""
