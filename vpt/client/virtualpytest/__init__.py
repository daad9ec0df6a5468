"""`vpt import-virtualpytest`: what a VirtualPyTest system has in its tables, as vpt has it."""
