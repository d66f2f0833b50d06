"""Object stores: one client interface, one module for each scheme and each client library."""
