-- The path of a run. Each query is one statement and is harmless when it is sent again, since a
-- connection may break after COMMIT (tests/sql/rules.py has the states in which each does nothing).

-- insert_execution(id, test_case_id, test_case_name, test_case_version, device_model, requirements, steps, actions, parameters, timeout_s, test_retries, wanted_device_id, wanted_host_id, priority, queue_timeout_s, requested_by, campaign_execution_id, secret_steps, sealed_values, device_models)
INSERT INTO test_executions (
    id, test_case_id, test_case_name, test_case_version, device_model, requirements, steps, actions,
    parameters, timeout_s, test_retries, wanted_device_id, wanted_host_id, priority,
    queue_timeout_s, requested_by, campaign_execution_id, secret_steps, sealed_values, device_models
)
VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20
)
RETURNING extract(epoch FROM queued_at)::float8 AS queued_at

-- start_attempt(execution_id, device_id, host_id)
-- Where any of several models will do, `device_model` becomes the one of the device: history and
-- estimates are by it. An implicit device has no model, and its host's capabilities are its models.
WITH started AS (
    UPDATE test_executions
    SET status = 'running', attempt = attempt + 1, seq = seq + 1, host_id = $3, device_id = $2,
        started_at = coalesce(started_at, now()), device_model = CASE
            WHEN device_models = '{}' THEN device_model
            ELSE coalesce(
                (
                    SELECT one
                    FROM devices d, hosts h, unnest(device_models) one
                    WHERE d.id = $2 AND h.id = $3
                        AND (one = d.model OR d.model IS NULL AND one = ANY (h.capabilities))
                    LIMIT 1
                ),
                device_model
            )
        END
    WHERE id = $1 AND status = 'queued' AND cancel_requested_at IS NULL
    RETURNING *
), new_attempt AS (
    INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq)
    SELECT id, attempt, host_id, device_id, seq
    FROM started
), first_step AS (
    INSERT INTO execution_steps (execution_id, attempt, step, action)
    SELECT id, attempt, 1, actions[1]
    FROM started
), busy AS (
    UPDATE devices
    SET status = 'busy'
    WHERE id = $2 AND EXISTS (SELECT FROM started)
)
SELECT id, test_case_id, attempt, seq, steps, device_model, timeout_s, infra_failures,
    test_failures, test_retries, requested_by, campaign_execution_id, secret_steps, sealed_values
FROM started

-- begun_attempt(execution_id, device_id)
SELECT e.id, e.test_case_id, e.attempt, a.seq, e.steps, e.device_model, e.timeout_s,
    e.infra_failures, e.test_failures, e.test_retries, e.requested_by, e.campaign_execution_id,
    e.secret_steps, e.sealed_values
FROM test_executions e
JOIN execution_attempts a ON a.execution_id = e.id AND a.attempt = e.attempt
WHERE e.id = $1 AND a.device_id = $2 AND e.status = 'running' AND a.status = 'running'

-- finish_steps(execution_ids, attempts, steps, tries, statuses, durations_ms, outputs, errors, screenshots, seqs, next_actions, notes, pictures)
-- No join with execution_steps: on a new database its plan would be made while the table is empty, as a
-- scan of the whole table, and be kept while it fills. So each row is looked up by its key (OFFSET 0
-- keeps `begun` a lookup), and it is updated by an INSERT that always conflicts. The next step's row is
-- inserted only where this statement finished the step: a record that arrives late, after the end of
-- the attempt, or a second time must not start a step.
WITH done AS (
    SELECT d.*, begun.action
    FROM unnest(
        $1::text[], $2::int[], $3::int[], $4::int[], $5::text[], $6::float8[], $7::text[],
        $8::text[], $9::text[], $10::int[], $11::text[], $12::text[], $13::text[]
    ) AS d (
        execution_id, attempt, step, tries, status, duration_ms, output, error, screenshot, seq,
        next_action, notes, pictures)
    CROSS JOIN LATERAL (
        SELECT action
        FROM execution_steps s
        WHERE s.execution_id = d.execution_id AND s.attempt = d.attempt AND s.step = d.step
        OFFSET 0
    ) AS begun
), finished AS (
    INSERT INTO execution_steps AS s (execution_id, attempt, step, action, status, tries,
        finished_at, duration_ms, output, error, screenshot, seq, notes, pictures)
    SELECT execution_id, attempt, step, action, status, tries, now(), duration_ms, output, error,
        screenshot, seq, notes, pictures::jsonb
    FROM done
    ON CONFLICT (execution_id, attempt, step) DO UPDATE
    SET status = excluded.status, tries = excluded.tries, finished_at = excluded.finished_at,
        duration_ms = excluded.duration_ms, output = excluded.output, error = excluded.error,
        screenshot = excluded.screenshot, seq = excluded.seq, notes = excluded.notes,
        pictures = excluded.pictures
    WHERE s.status = 'running'
    RETURNING execution_id, attempt, step
)
INSERT INTO execution_steps (execution_id, attempt, step, action)
SELECT execution_id, attempt, step + 1, next_action
FROM finished
JOIN done USING (execution_id, attempt, step)
WHERE next_action IS NOT NULL
ON CONFLICT DO NOTHING

-- store_handle(execution_id, attempt, step, tries, handle)
UPDATE execution_steps
SET handle = $5
WHERE execution_id = $1 AND attempt = $2 AND step = $3 AND tries = $4 AND status = 'running'

-- retry_step(execution_id, attempt, step, tries)
UPDATE execution_steps
SET tries = $4, handle = NULL
WHERE execution_id = $1 AND attempt = $2 AND step = $3 AND status = 'running'

-- end_attempt(execution_id, attempt, status, error_kind, error, again, release, open_step, seq, refused_by, last_step, output, infra_errors, last_error, pause_s, screenshot, notes)
-- `failed_on` and `failed_hosts` have the failed attempts before this one. What the device's health
-- became is stored with the end, so that neither is without the other.
WITH ended AS (
    UPDATE execution_attempts
    SET status = $3, error_kind = $4, error = $5, completed_at = now(),
        released_at = CASE WHEN $7 THEN now() END
    WHERE execution_id = $1 AND attempt = $2 AND status = 'running'
    RETURNING execution_id, device_id
), device AS (
    UPDATE devices
    SET infra_errors = $13, last_error = $14, held_until = now() + make_interval(secs => $15::float8)
    WHERE id = (SELECT device_id FROM ended)
        AND (infra_errors, last_error, held_until IS NULL)
            IS DISTINCT FROM ($13::int, $14::text, $15::float8 IS NULL)
), failures AS (
    SELECT coalesce(array_agg(host_id ORDER BY attempt), '{}') AS failed_hosts,
        coalesce(array_agg(device_id ORDER BY attempt), '{}') AS failed_on
    FROM execution_attempts
    WHERE execution_id = $1 AND attempt < $2 AND status = 'error'
        AND error_kind <> 'server_restarted'
), open_steps AS (
    UPDATE execution_steps
    SET status = CASE WHEN step = $8 THEN 'error' ELSE 'skipped' END,
        error = CASE WHEN step = $8 THEN coalesce($5, $3) END,
        output = CASE WHEN step = $8 THEN $12::text END,
        screenshot = CASE WHEN step = $8 THEN $16::text END,
        notes = CASE WHEN step = $8 THEN $17::text END,
        finished_at = CASE WHEN step = $8 THEN now() END,
        started_at = CASE WHEN step = $8 THEN started_at END
    WHERE execution_id = $1 AND attempt = $2 AND status = 'running'
        AND EXISTS (SELECT FROM ended)
), verdict AS (
    SELECT CASE
            WHEN NOT $6 THEN $3
            WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
            ELSE 'queued'
        END AS status
    FROM test_executions
    WHERE id = $1
), execution AS (
    UPDATE test_executions e
    SET status = v.status,
        error_kind = CASE WHEN v.status = 'error' THEN $4 END,
        error = CASE
            WHEN v.status = 'error' THEN true_reason($1, $2 - 1, $4, $5)
            WHEN v.status = 'failed' THEN $5
        END,
        infra_failures = infra_failures + ($3 = 'error' AND $4 <> 'server_restarted')::int,
        test_failures = test_failures + ($3 = 'failed')::int,
        refused_by = CASE WHEN $10::text IS NULL THEN refused_by ELSE refused_by || $10::text END,
        queued_at = CASE WHEN v.status = 'queued' THEN now() ELSE queued_at END,
        host_id = CASE WHEN v.status = 'queued' THEN NULL ELSE host_id END,
        device_id = CASE WHEN v.status = 'queued' THEN NULL ELSE device_id END,
        completed_at = CASE WHEN v.status <> 'queued' THEN now() END,
        secret_steps = CASE WHEN v.status = 'queued' THEN secret_steps END,
        sealed_values = CASE WHEN v.status = 'queued' THEN sealed_values END,
        seq = CASE WHEN v.status = 'queued' THEN $9 - 1 ELSE $9 END,
        end_step = CASE WHEN v.status = 'queued' THEN 0 ELSE $11 END,
        end_step_status = CASE WHEN v.status <> 'queued' AND $8 IS NOT NULL THEN 'error' END,
        results = CASE WHEN v.status <> 'queued' THEN (
            SELECT jsonb_build_object(
                'total_steps', cardinality(e.actions),
                'passed', count(*) FILTER (WHERE s.status = 'passed'),
                'failed', count(*) FILTER (WHERE s.status = 'failed'),
                'attempts', $2::int)
            FROM execution_steps s
            WHERE s.execution_id = $1 AND s.attempt = $2
        ) END
    FROM verdict v
    WHERE e.id = $1 AND e.status = 'running' AND EXISTS (SELECT FROM ended)
    RETURNING e.*
)
SELECT status, device_model, device_models, requirements, wanted_device_id, wanted_host_id, refused_by, priority,
    extract(epoch FROM queued_at)::float8 AS queued_at, queue_timeout_s,
    extract(epoch FROM completed_at - started_at)::float8 AS duration_s, failed_hosts, failed_on
FROM execution, failures
UNION ALL
SELECT status, device_model, device_models, requirements, wanted_device_id, wanted_host_id, refused_by, priority,
    extract(epoch FROM queued_at)::float8, queue_timeout_s,
    extract(epoch FROM completed_at - started_at)::float8, failed_hosts, failed_on
FROM test_executions, failures
WHERE id = $1 AND NOT EXISTS (SELECT FROM execution)

-- request_of(execution_id)
-- What a running execution asks of a device; `failed_on` and `failed_hosts` have its failed attempts.
SELECT e.device_model, e.device_models, e.requirements, e.wanted_device_id, e.wanted_host_id, e.refused_by, e.priority,
    extract(epoch FROM e.queued_at)::float8 AS queued_at, e.queue_timeout_s,
    coalesce(array_agg(a.host_id ORDER BY a.attempt) FILTER (WHERE a.attempt IS NOT NULL), '{}')
        AS failed_hosts,
    coalesce(array_agg(a.device_id ORDER BY a.attempt) FILTER (WHERE a.attempt IS NOT NULL), '{}')
        AS failed_on
FROM test_executions e
LEFT JOIN execution_attempts a
    ON a.execution_id = e.id AND a.status = 'error' AND a.error_kind <> 'server_restarted'
WHERE e.id = $1
GROUP BY e.id

-- release_device(execution_id, attempt)
UPDATE execution_attempts
SET released_at = now()
WHERE execution_id = $1 AND attempt = $2 AND released_at IS NULL

-- end_queued(execution_id, status, error_kind, error)
-- An error without kind and words is what its attempts ended with.
UPDATE test_executions e
SET status = $2, completed_at = now(), seq = seq + 1,
    error_kind = CASE
        WHEN $3::text IS NULL AND $2 = 'error' THEN (
            SELECT a.error_kind
            FROM execution_attempts a
            WHERE a.execution_id = e.id AND a.attempt = e.attempt)
        ELSE $3
    END,
    error = CASE WHEN $2 = 'error' THEN true_reason(e.id, e.attempt, $3, $4) END,
    secret_steps = NULL, sealed_values = NULL,
    results = jsonb_build_object(
        'total_steps', cardinality(actions), 'passed', 0, 'failed', 0, 'attempts', attempt)
WHERE id = $1 AND status = 'queued'
RETURNING id, status, seq, attempt, cardinality(actions) AS total_steps, campaign_execution_id, error

-- ended_queued(execution_id)
-- An execution that ended in the queue has no host.
SELECT id, status, seq, attempt, cardinality(actions) AS total_steps, campaign_execution_id, error
FROM test_executions
WHERE id = $1 AND completed_at IS NOT NULL AND host_id IS NULL

-- request_cancel(execution_id)
UPDATE test_executions
SET cancel_requested_at = coalesce(cancel_requested_at, now())
WHERE id = $1 AND status IN ('queued', 'running')
RETURNING status, host_id

-- execution_status(execution_id)
SELECT status, host_id, device_id
FROM test_executions
WHERE id = $1

-- queued_page(after_at, after_id, limit)
SELECT id, queued_at AS at, device_model, device_models, requirements, wanted_device_id, wanted_host_id, refused_by, priority,
    extract(epoch FROM queued_at)::float8 AS queued_at, queue_timeout_s,
    cancel_requested_at IS NOT NULL AS cancelled,
    failed_hosts, failed_on
FROM test_executions e
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(host_id ORDER BY attempt), '{}') AS failed_hosts,
        coalesce(array_agg(device_id ORDER BY attempt), '{}') AS failed_on
    FROM execution_attempts a
    WHERE a.execution_id = e.id AND a.status = 'error' AND a.error_kind <> 'server_restarted'
) failures
WHERE status = 'queued'
    AND (e.queued_at, e.id) > (coalesce($1::timestamptz, '-infinity'), $2::text)
ORDER BY e.queued_at, e.id
LIMIT $3::int

-- cancels_wished()
SELECT id, status, host_id
FROM test_executions
WHERE status IN ('queued', 'running') AND cancel_requested_at < now() - interval '3 seconds'

-- queue_clock()
-- The clock that stamps `queued_at`.
SELECT extract(epoch FROM clock_timestamp())::float8

-- count_queued()
SELECT count(*)
FROM test_executions
WHERE status = 'queued'

-- insert_campaign_execution(id, campaign_id, name, stop_on_failure, parallelism, priority, requested_by, total)
INSERT INTO campaign_executions (
    id, campaign_id, name, stop_on_failure, parallelism, priority, requested_by, total, seq
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1)

-- copy_campaign_steps(campaign_execution_id, test_case_ids, versions)
-- How many were copied: fewer than asked for when a test case is another one by now.
WITH copied AS (
    INSERT INTO campaign_steps (campaign_execution_id, test_case_id, steps)
    SELECT $1, t.id, t.steps
    FROM unnest($2::text[], $3::int[]) AS wanted (id, version)
    JOIN test_cases t ON t.id = wanted.id AND t.version = wanted.version
    RETURNING 1
)
SELECT count(*)
FROM copied

-- insert_campaign_result(campaign_execution_id, position, test_case_id, request)
INSERT INTO campaign_results (campaign_execution_id, position, test_case_id, request)
VALUES ($1, $2, $3, $4)

-- running_campaigns()
SELECT id
FROM campaign_executions
WHERE status = 'running'

-- campaign_job(id)
SELECT id, stop_on_failure, parallelism, priority, total, seq, requested_by, status,
    cancel_requested_at IS NOT NULL AS cancelled
FROM campaign_executions
WHERE id = $1

-- campaign_entries_of(id)
SELECT r.position, r.execution_id, r.skipped, e.status
FROM campaign_results r
LEFT JOIN test_executions e ON e.id = r.execution_id
WHERE r.campaign_execution_id = $1
ORDER BY r.position

-- campaign_request(id, position)
-- An entry that an older vpt stored has its steps in its request, and none in campaign_steps.
SELECT r.request, s.steps::text AS steps
FROM campaign_results r
LEFT JOIN campaign_steps s
    ON s.campaign_execution_id = r.campaign_execution_id AND s.test_case_id = r.test_case_id
WHERE r.campaign_execution_id = $1 AND r.position = $2

-- campaign_entry(id, position)
SELECT execution_id, skipped
FROM campaign_results
WHERE campaign_execution_id = $1 AND position = $2

-- link_campaign_result(campaign_execution_id, position, execution_id)
UPDATE campaign_results
SET execution_id = $3
WHERE campaign_execution_id = $1 AND position = $2 AND execution_id IS NULL AND NOT skipped
RETURNING position

-- store_campaign_seq(id, seq)
UPDATE campaign_executions
SET seq = $2
WHERE id = $1 AND seq < $2

-- skip_campaign_rest(id)
UPDATE campaign_results
SET skipped = true
WHERE campaign_execution_id = $1 AND execution_id IS NULL

-- finish_campaign(id, status, seq, error_kind, error)
WITH finished AS (
    UPDATE campaign_executions
    SET status = $2, completed_at = now(), seq = $3, error_kind = $4, error = $5
    WHERE id = $1 AND status = 'running'
    RETURNING id
)
DELETE FROM campaign_steps
WHERE campaign_execution_id = $1 AND EXISTS (SELECT FROM finished)

-- request_campaign_cancel(id)
UPDATE campaign_executions
SET cancel_requested_at = coalesce(cancel_requested_at, now())
WHERE id = $1 AND status = 'running'
RETURNING id

-- campaign_status(id)
SELECT status
FROM campaign_executions
WHERE id = $1
