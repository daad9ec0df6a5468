"""What a host's actor decides, by pure functions: (state, message) -> (state, effects).

`table.py` has the entry points, `transition` and `wake`. Nothing in this package waits, tells the
time, logs or makes ids: that is what makes each history of messages repeatable in a test.
"""

from vpt.actors.machine.table import transition, wake

__all__ = ["transition", "wake"]
