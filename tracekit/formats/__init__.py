"""Other tools' logs, in and out: one format a module, a registry of them."""
