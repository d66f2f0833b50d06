"""Pictures, tables and the HTML page of a trace."""
