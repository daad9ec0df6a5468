"""How a lab of VirtualPyTest hosts moves to vpt."""
