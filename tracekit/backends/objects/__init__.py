"""Object stores: one client interface, one module a scheme and a client."""
