-- A campaign execution keeps the steps of each of its test cases once, as they were at its start,
-- however many entries run them; its results keep the parameters. They go when it is over.
CREATE TABLE campaign_steps (
    campaign_execution_id text NOT NULL REFERENCES campaign_executions ON DELETE CASCADE,
    test_case_id text NOT NULL,
    steps json NOT NULL,
    PRIMARY KEY (campaign_execution_id, test_case_id)
);

-- Why a campaign execution ended as `error` when none of its executions says so.
ALTER TABLE campaign_executions
    ADD COLUMN error_kind text CONSTRAINT campaign_executions_error_kind CHECK
        (error_kind IS NULL OR error_kind = 'internal' AND status = 'error'),
    ADD COLUMN error text;
