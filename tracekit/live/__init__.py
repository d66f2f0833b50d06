"""Watching a trace while it is being written: the numbers of each interval, a screen, Prometheus and OTLP."""
