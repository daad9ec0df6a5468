-- The final event of an execution as it was told: at which step it ended, and what became of it.

ALTER TABLE test_executions
    ADD COLUMN end_step integer NOT NULL DEFAULT 0,
    ADD COLUMN end_step_status text CONSTRAINT test_executions_end_step_status CHECK
        (end_step_status IN ('passed', 'failed', 'error', 'skipped'));

-- What ended before this: its open step, which has no number of its own, else the last finished
-- one. What ended in the queue has no host.
UPDATE test_executions e
SET end_step = coalesce(s.open_step, s.last_step, 1),
    end_step_status = CASE WHEN s.open_step IS NOT NULL THEN 'error' END
FROM (
    SELECT a.execution_id, a.attempt,
        max(s.step) FILTER (WHERE s.status = 'error' AND s.seq IS NULL) AS open_step,
        max(s.step) FILTER (WHERE s.seq IS NOT NULL) AS last_step
    FROM execution_attempts a
    LEFT JOIN execution_steps s ON s.execution_id = a.execution_id AND s.attempt = a.attempt
    GROUP BY a.execution_id, a.attempt
) s
WHERE s.execution_id = e.id AND s.attempt = e.attempt
    AND e.completed_at IS NOT NULL AND e.host_id IS NOT NULL;
