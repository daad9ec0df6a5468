"""Bounds of what clients send, for the server that checks them and the client that checks files.

Constants only: everything may import this module, and it imports nothing.
"""

from __future__ import annotations

#: Characters of an id that a client sends: in a path, or as a reference in a body.
LONGEST_ID = 200
#: Characters of the name of a test case, campaign, device or token, and of one tag or requirement.
LONGEST_NAME = 100
#: Characters of the description of a test case or campaign.
LONGEST_DESCRIPTION = 1000
#: Bytes of any body, whatever MAX_BODY is: a parser that reads so many keeps all others waiting for
#: 25 ms on a slow machine, since it does not let go of the interpreter.
LONGEST_BODY = 8 * 2**20
#: Bytes of a test case, and of a campaign, as a body: lists show many of them.
LONGEST_TEST_CASE, LONGEST_CAMPAIGN = 2**20, 4 * 2**20
#: Steps of a test case: each is a row of every execution.
MOST_STEPS = 1000
#: Test cases of a campaign: each becomes an execution in the queue.
MOST_ENTRIES = 1000
#: Executions of a campaign that run at the same time.
MOST_PARALLEL = 1000
#: Tags, and requirements, of a test case.
MOST_WORDS = 100
#: Seconds of every timeout and delay that a client sets: one day.
LONGEST_TIMEOUT_S = 86_400.0
#: Further attempts after a failed one (`test_retries`).
MOST_RETRIES = 10
#: Repeats of a step that the host reported as failed (`retries`).
MOST_STEP_RETRIES = 100
#: Priorities go from 0 to this, higher first.
HIGHEST_PRIORITY = 100
DEFAULT_PRIORITY = 50
#: Capabilities, and tags, of a host or a device.
LONGEST_REASON = 500
MOST_PROPERTIES, LONGEST_PROPERTY_NAME, LONGEST_PROPERTY = 64, 64, 256
MOST_LABELS = 200
