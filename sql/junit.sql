-- Reports for CI: executions with all attempts and their steps, in a campaign's order.

-- junit_cases(execution_id, campaign_execution_id)
-- One of the two is given. Outputs are cut (a report is read whole), those of passed steps shorter.
WITH wanted AS (
    SELECT r.position, r.execution_id, r.request ->> 'test_case_name' AS planned, r.skipped
    FROM campaign_results AS r
    WHERE r.campaign_execution_id = $2
    UNION ALL
    SELECT 0, $1::text, NULL, false
    WHERE $1 IS NOT NULL
)
SELECT
    coalesce(e.test_case_name, wanted.planned) AS name, e.id AS execution_id,
    CASE WHEN wanted.skipped THEN 'skipped' ELSE coalesce(e.status, 'queued') END AS status,
    e.error_kind, e.error, e.host_id, e.device_id, e.attempt, e.pruned,
    extract(epoch FROM e.completed_at - e.started_at)::float8 AS duration_s,
    (
        SELECT coalesce(json_agg(row_to_json(one) ORDER BY a.attempt), '[]')
        FROM execution_attempts AS a
        CROSS JOIN LATERAL (
            SELECT
                a.attempt, a.host_id, a.device_id, a.status, a.error_kind, a.error,
                (
                    SELECT coalesce(json_agg(row_to_json(told) ORDER BY s.step), '[]')
                    FROM execution_steps AS s,
                    LATERAL (
                        SELECT CASE WHEN s.status = 'passed' THEN 500 ELSE 4000 END AS most
                    ) AS long,
                    LATERAL (
                        SELECT
                            s.step, s.action, s.status, s.duration_ms,
                            left(s.output, long.most) AS output,
                            length(s.output) > long.most AS cut, left(s.error, 4000) AS error
                    ) AS told
                    WHERE s.execution_id = a.execution_id
                        AND s.attempt = a.attempt
                ) AS steps
        ) AS one
        WHERE a.execution_id = e.id
    )::text AS attempts
FROM wanted
LEFT JOIN test_executions AS e ON e.id = wanted.execution_id
ORDER BY wanted.position;

-- junit_head(execution_id, campaign_execution_id)
-- What the report is of; no row: there is no such thing.
SELECT e.test_case_name AS name, e.created_at AS began_at
FROM test_executions AS e
WHERE e.id = $1
UNION ALL
SELECT c.name, c.created_at
FROM campaign_executions AS c
WHERE c.id = $2;
