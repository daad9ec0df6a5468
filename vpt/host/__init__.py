"""The reference host: holds devices, runs their actions, and belongs to a vpt server.

It starts in `server.py`; nothing is imported here, so that `vpt --help` need not load it.
"""
