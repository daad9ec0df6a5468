-- History of another system, imported.

-- import_executions(ids, test_case_ids, names, device_models, host_ids, device_ids, statuses, errors, outputs, started_at, completed_at, source, user_id)
-- Each with one attempt of one step. Those that are there already, by id, stay as they are.
WITH given AS (
    SELECT DISTINCT ON (id) *
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[]
    ) AS g (id, test_case_id, name, device_model, host_id, device_id, status, error, output,
        started_at, completed_at)
), imported AS (
    INSERT INTO test_executions (
        id, test_case_id, test_case_name, test_case_version, device_model, steps, actions,
        queue_timeout_s, requested_by, status, error, attempt, test_failures, host_id, device_id,
        seq, end_step, created_at, queued_at, started_at, completed_at, results, imported_from
    )
    SELECT id, coalesce(test_case_id, concat($12::text, '_', md5(name))), name, 1, device_model, json_build_array(json_build_object('script', name)),
        ARRAY[name], 0, $13, status, error, 1, (status = 'failed')::int, host_id, device_id,
        3, 1, started_at, started_at, started_at, completed_at, jsonb_build_object(
            'total_steps', 1, 'passed', (status = 'completed')::int,
            'failed', (status = 'failed')::int, 'attempts', 1), $12
    FROM given
    ON CONFLICT DO NOTHING
    RETURNING id
), attempts AS (
    INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, status, error, seq,
        started_at, completed_at, released_at)
    SELECT id, 1, host_id, device_id, status, error, 1, started_at, completed_at, completed_at
    FROM given
    JOIN imported USING (id)
), step AS (
    INSERT INTO execution_steps (execution_id, attempt, step, action, status, started_at, finished_at,
        duration_ms, output, error, seq)
    SELECT id, 1, 1, name, CASE status WHEN 'completed' THEN 'passed' ELSE 'failed' END, started_at,
        completed_at, extract(epoch FROM completed_at - started_at) * 1000, output, error, 2
    FROM given
    JOIN imported USING (id)
)
SELECT count(*) AS imported
FROM imported;
