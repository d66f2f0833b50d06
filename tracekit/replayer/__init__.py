"""Re-driving a trace: plan, pacer, engines, result."""
