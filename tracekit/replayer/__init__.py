"""Replaying a trace: plan, pacing, engines, result."""
