"""The commands of `vpt`: `cli.py` and `db.py` declare them, others do the work."""
