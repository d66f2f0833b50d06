"""What drives a plan: threads of this process, other processes, or an event loop."""
