-- Indexes for what had none: it was found by reading all rows.

-- Lists of hosts and the start of the server ask for the devices of a host.
CREATE INDEX devices_of_host ON devices (host_id);

-- A list of campaign executions with a rare status went through all of them.
CREATE INDEX campaign_executions_by_status ON campaign_executions (status, created_at DESC, id DESC);

-- The figures of each device are over all its executions. This has all that they need, so that
-- the executions themselves, which are wide, are not read.
CREATE INDEX test_executions_figures ON test_executions (device_id)
    INCLUDE (status, started_at, completed_at) WHERE device_id IS NOT NULL;
