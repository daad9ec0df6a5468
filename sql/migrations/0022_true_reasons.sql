-- The true reason first: what ended an execution, and what is to be known of a step.

-- What an execution's error says: the cause of its first attempt that failed, up to `latest`, and what
-- ended the execution where that is of another kind. A restart of the server is nobody's failure.
CREATE FUNCTION true_reason(execution text, latest integer, last_kind text, last_error text)
RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(
        (
            SELECT CASE
                WHEN last_error IS NULL OR a.error_kind = last_kind THEN a.error
                ELSE concat(a.error, '; then: ', last_error)
            END
            FROM execution_attempts a
            WHERE a.execution_id = execution
                AND a.attempt <= latest
                AND a.status = 'error'
                AND a.error_kind <> 'server_restarted'
                AND a.error IS NOT NULL
            ORDER BY a.attempt
            LIMIT 1
        ),
        last_error
    )
$$;

-- What the server has to say of a step that ended: that its picture was left out, and why.
ALTER TABLE execution_steps ADD COLUMN notes text;

-- `nothing_fits`: no registered device could run it any more.
ALTER TABLE test_executions
    DROP CONSTRAINT test_executions_error_kind,
    ADD CONSTRAINT test_executions_error_kind CHECK
        (error_kind IN ('host_lost', 'host_error', 'host_refused', 'step_timeout', 'run_timeout',
                        'queue_timeout', 'server_restarted', 'internal', 'config', 'nothing_fits'));
