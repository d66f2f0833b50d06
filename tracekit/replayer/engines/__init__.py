"""What drives a plan: compiled workers, interpreted ones, or an event loop."""
