"""Programs that see a command's file I/O from outside."""
