"""How to talk to a host: one module a dialect."""
