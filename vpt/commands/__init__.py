"""The commands of `vpt`: one module a group."""
