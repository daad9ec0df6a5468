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

-- How many entries of a campaign execution ended how: the list and the item both show it.
CREATE FUNCTION campaign_summary(
    of_id text, of_total integer, of_started_at timestamptz, of_completed_at timestamptz
) RETURNS TABLE (
    total integer, completed bigint, failed bigint, error bigint, cancelled bigint, skipped bigint,
    success_rate double precision, duration_s double precision
)
LANGUAGE sql STABLE
AS $$
    SELECT
        of_total, counts.completed, counts.failed, counts.error, counts.cancelled, counts.skipped,
        round(100.0 * counts.completed / nullif(counts.completed + counts.failed, 0), 2)::float8,
        extract(epoch FROM coalesce(of_completed_at, now()) - of_started_at)::float8
    FROM (
        SELECT
            count(*) FILTER (WHERE e.status = 'completed') AS completed,
            count(*) FILTER (WHERE e.status = 'failed') AS failed,
            count(*) FILTER (WHERE e.status = 'error') AS error,
            count(*) FILTER (WHERE e.status = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE r.skipped) AS skipped
        FROM campaign_results AS r
        LEFT JOIN test_executions AS e ON e.id = r.execution_id
        WHERE r.campaign_execution_id = of_id
    ) AS counts
$$;
