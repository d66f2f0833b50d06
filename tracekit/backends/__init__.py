"""Storage by URI scheme: one protocol, one module a scheme, a registry of them."""
