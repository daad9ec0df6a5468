-- Reports for CI: executions with all attempts and their steps, in a campaign's order.

-- junit_cases(execution_id, campaign_execution_id)
-- One of the two is given. A report is read whole and a campaign may have ten million steps, so
-- about 20,000 are told, and of those that did not pass as many again, with the beginning of what
-- was said: longer where fewer are told. A completed attempt is read no further than it is told.
WITH wanted AS (
    SELECT r.position, r.execution_id, r.request ->> 'test_case_name' AS planned, r.skipped
    FROM campaign_results AS r
    WHERE r.campaign_execution_id = $2
    UNION ALL
    SELECT 0, $1::text, NULL, false
    WHERE $1 IS NOT NULL
), counted AS (
    SELECT greatest(10, 20000 / greatest(count(*), 1)) AS steps
    FROM wanted
    JOIN execution_attempts AS a ON a.execution_id = wanted.execution_id
), bounds AS (
    SELECT
        max(counted.steps) AS steps,
        greatest(sum(least(cardinality(e.actions), counted.steps)), 1) AS told
    FROM counted
    LEFT JOIN wanted ON true
    LEFT JOIN test_executions AS e ON e.id = wanted.execution_id
    LEFT JOIN execution_attempts AS a ON a.execution_id = e.id
), lengths AS (
    SELECT
        steps,
        least(500, greatest(100, 8000000 / told))::int AS of_passed,
        least(4000, greatest(400, 32000000 / told))::int AS of_others
    FROM bounds
)
SELECT
    coalesce(e.test_case_name, wanted.planned) AS name, e.id AS execution_id,
    CASE WHEN wanted.skipped THEN 'skipped' ELSE coalesce(e.status, 'queued') END AS status,
    e.error_kind, left(e.error, 4000) AS error, e.host_id, e.device_id, e.attempt, e.pruned,
    extract(epoch FROM e.completed_at - e.started_at)::float8 AS duration_s,
    (
        SELECT coalesce(json_agg(row_to_json(one) ORDER BY a.attempt), '[]')
        FROM execution_attempts AS a
        CROSS JOIN LATERAL (
            SELECT
                a.attempt, a.host_id, a.device_id, a.status, a.error_kind,
                left(a.error, 4000) AS error,
                (
                    SELECT max(s.step)
                    FROM execution_steps AS s
                    WHERE s.execution_id = a.execution_id
                        AND s.attempt = a.attempt
                ) AS last_step,
                (
                    SELECT coalesce(json_agg(row_to_json(told) ORDER BY s.step), '[]')
                    FROM (
                        (
                            SELECT *
                            FROM execution_steps
                            WHERE execution_id = a.execution_id
                                AND attempt = a.attempt
                                AND a.status <> 'completed'
                                AND status <> 'passed'
                            ORDER BY step
                            LIMIT lengths.steps
                        )
                        UNION ALL
                        (
                            SELECT *
                            FROM execution_steps
                            WHERE execution_id = a.execution_id
                                AND attempt = a.attempt
                                AND (a.status = 'completed' OR status = 'passed')
                            ORDER BY step
                            LIMIT lengths.steps
                        )
                    ) AS s
                    CROSS JOIN LATERAL (
                        SELECT CASE
                            WHEN s.status = 'passed' THEN lengths.of_passed
                            ELSE lengths.of_others
                        END AS most
                    ) AS long
                    CROSS JOIN LATERAL (
                        SELECT left(s.output, long.most) AS output, left(s.error, long.most) AS error
                    ) AS head
                    CROSS JOIN LATERAL (
                        SELECT
                            s.step, s.action, s.status, s.duration_ms, head.output, head.error,
                            octet_length(head.output) < octet_length(s.output) AS output_cut,
                            octet_length(head.error) < octet_length(s.error) AS error_cut
                    ) AS told
                ) AS steps
        ) AS one
        WHERE a.execution_id = e.id
    )::text AS attempts
FROM wanted
CROSS JOIN lengths
LEFT JOIN test_executions AS e ON e.id = wanted.execution_id
ORDER BY wanted.position;

-- junit_head(execution_id, campaign_execution_id)
-- What the report is of; no row: there is no such thing. `error`: why a campaign could not go on.
SELECT e.test_case_name AS name, e.created_at AS began_at, NULL AS error_kind, NULL AS error
FROM test_executions AS e
WHERE e.id = $1
UNION ALL
SELECT c.name, c.created_at, c.error_kind, c.error
FROM campaign_executions AS c
WHERE c.id = $2;
