-- The events of executions and campaigns, computed from rows: each row is stored before its event is
-- published.

-- execution_seqs(ids)
-- While an attempt runs, its last finished step has the highest `seq`.
SELECT e.id, e.completed_at IS NOT NULL AS over,
    greatest(e.seq, (
        SELECT s.seq
        FROM execution_steps s
        WHERE s.execution_id = e.id AND s.attempt = e.attempt AND s.seq IS NOT NULL
        ORDER BY s.step DESC
        LIMIT 1
    )) AS seq
FROM test_executions e
WHERE e.id = ANY ($1::text[]);

-- campaign_seqs(ids)
SELECT id, completed_at IS NOT NULL AS over, seq
FROM campaign_executions
WHERE id = ANY ($1::text[]);

-- execution_events(id, after_seq, limit)
-- Step n of an attempt has the attempt's `seq` plus n, so the primary key finds a page of steps. Where
-- the steps are pruned, the gap between two numbers tells how many there were, but not how they ended.
SELECT
    told.seq, told.attempt, told.step, told.status, told.step_status, told.screenshot,
    told.host_id, told.device_id, cardinality(e.actions) AS total_steps, e.campaign_execution_id
FROM test_executions e
CROSS JOIN LATERAL (
    SELECT
        a.seq, a.attempt, 0 AS step, 'running' AS status, NULL AS step_status,
        NULL AS screenshot, a.host_id, a.device_id
    FROM execution_attempts a
    WHERE a.execution_id = e.id
    UNION ALL
    SELECT s.seq, s.attempt, s.step, 'running', s.status, s.screenshot, a.host_id, a.device_id
    FROM execution_attempts a
    JOIN execution_steps s ON s.execution_id = a.execution_id AND s.attempt = a.attempt
    WHERE a.execution_id = e.id AND e.pruned <> 'steps'
        AND s.step > $2 - a.seq AND s.step <= $2 - a.seq + $3::int AND s.seq IS NOT NULL
    UNION ALL
    SELECT gone.seq, a.attempt, gone.seq - a.seq, 'running', NULL, NULL, a.host_id, a.device_id
    FROM (
        SELECT *, coalesce(lead(seq) OVER (ORDER BY attempt), e.seq) AS next_seq
        FROM execution_attempts
        WHERE execution_id = e.id AND e.pruned = 'steps'
    ) AS a
    CROSS JOIN generate_series(
        greatest(a.seq, $2) + 1, least(a.next_seq - 1, $2 + $3::int)) AS gone (seq)
    UNION ALL
    SELECT
        e.seq, e.attempt, e.end_step, e.status, e.end_step_status, NULL, e.host_id, e.device_id
    WHERE e.completed_at IS NOT NULL
) AS told
WHERE e.id = $1 AND told.seq > $2::int
ORDER BY told.seq
LIMIT $3;

-- campaign_events(id, after_seq, limit)
-- Event 1 says that the campaign started, each further one that one more entry ended, and the last one
-- how the campaign ended.
SELECT
    told.seq, c.total,
    CASE WHEN ended.here THEN c.status ELSE 'running' END AS status,
    CASE
        WHEN ended.here THEN (
            SELECT count(*)
            FROM campaign_results r
            WHERE r.campaign_execution_id = c.id AND NOT r.skipped
        )
        ELSE told.seq - 1
    END AS done
FROM campaign_executions c
CROSS JOIN LATERAL generate_series($2::int + 1, least(c.seq, $2 + $3::int)) AS told (seq)
CROSS JOIN LATERAL (SELECT c.completed_at IS NOT NULL AND told.seq = c.seq AS here) AS ended
WHERE c.id = $1
ORDER BY told.seq;
