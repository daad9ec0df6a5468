-- A lab that has worked for a while: 10,000 executions of five steps, 500 hosts, 2,000 devices.
INSERT INTO hosts (id, host_url, dialect, credential, capabilities, tags, status, created_at)
SELECT 'host-' || n, 'http://host-' || n, 'document', 'join', '{web}', '{lab}', 'available',
    now() - make_interval(secs => n)
FROM generate_series(1, 500) AS n;
INSERT INTO device_schemas (hash, schema)
SELECT decode(lpad(to_hex(n), 64, '0'), 'hex'), '{}'
FROM generate_series(1, 50) AS n;
INSERT INTO devices (id, host_id, local_id, name, model, declared, status, schema_hash, created_at)
SELECT 'device-' || n, 'host-' || (n % 500 + 1), 'local-' || n, 'device ' || n, 'model-' || n % 5,
    true, 'online', decode(lpad(to_hex(n % 50 + 1), 64, '0'), 'hex'), now() - make_interval(secs => n)
FROM generate_series(1, 2000) AS n;
INSERT INTO leases (id, device_id, holder, expires_at)
SELECT 'lease-' || n, 'device-' || n, 'ann', now() + interval '1 hour'
FROM generate_series(1, 500) AS n;
INSERT INTO test_cases (id, name, steps, device_model)
SELECT 'case-' || n, 'case ' || n, '[{}]', 'model-' || n % 5
FROM generate_series(1, 1000) AS n;
INSERT INTO campaigns (id, name)
SELECT 'campaign-' || n, 'campaign ' || n
FROM generate_series(1, 1000) AS n;
INSERT INTO campaign_entries (campaign_id, position, test_case_id)
SELECT 'campaign-' || n, position, 'case-' || n
FROM generate_series(1, 1000) AS n, generate_series(0, 4) AS position;
INSERT INTO campaign_executions (id, campaign_id, name, stop_on_failure, parallelism, priority,
    requested_by, status, total, created_at, started_at, completed_at)
SELECT 'run-' || n, 'campaign-' || n, 'campaign ' || n, false, 1, 50, 'ann',
    CASE WHEN n <= 5 THEN 'running' ELSE 'completed' END, 5, now() - make_interval(mins => n),
    now() - make_interval(mins => n), CASE WHEN n > 5 THEN now() - make_interval(mins => n - 1) END
FROM generate_series(1, 1000) AS n;
-- The newest 100 are queued, the 100 before them run; every second one belongs to a campaign.
INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
    steps, actions, queue_timeout_s, requested_by, campaign_execution_id, status, error_kind, attempt,
    host_id, device_id, created_at, queued_at, started_at, completed_at)
SELECT 'execution-' || n, 'case-' || n % 1000, 'case', 1, 'model-' || n % 5, '[{},{},{},{},{}]',
    '{a,b,c,d,e}', 60, 'ann', CASE WHEN n % 2 = 0 THEN 'run-' || n % 1000 + 1 END, status,
    CASE WHEN status = 'error' THEN 'host_lost' END, CASE WHEN status = 'queued' THEN 0 ELSE 1 END,
    CASE WHEN status <> 'queued' THEN 'host-' || n % 500 + 1 END,
    CASE WHEN status <> 'queued' THEN 'device-' || n % 2000 + 1 END,
    now() - make_interval(mins => n), now() - make_interval(mins => n),
    CASE WHEN status <> 'queued' THEN now() - make_interval(mins => n) END,
    CASE WHEN n > 200 THEN now() - make_interval(mins => n - 1) END
FROM generate_series(1, 10000) AS n,
    LATERAL (
        SELECT CASE
            WHEN n <= 100 THEN 'queued'
            WHEN n <= 200 THEN 'running'
            WHEN n % 100 = 0 THEN 'cancelled'
            WHEN n % 100 < 5 THEN 'error'
            WHEN n % 100 < 20 THEN 'failed'
            ELSE 'completed'
        END AS status
    ) AS at_last;
INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, status, seq, started_at,
    completed_at, released_at)
SELECT id, 1, host_id, device_id, status, 1, started_at, completed_at, completed_at
FROM test_executions
WHERE status <> 'queued';
INSERT INTO execution_steps (execution_id, attempt, step, action, status, finished_at, seq)
SELECT execution_id, 1, step, 'a', CASE WHEN status = 'running' THEN 'running' ELSE 'passed' END,
    completed_at, CASE WHEN status <> 'running' THEN step + 1 END
FROM execution_attempts
JOIN generate_series(1, 5) AS step ON step = 1 OR status <> 'running';
INSERT INTO campaign_results (campaign_execution_id, position, test_case_id, request, execution_id)
SELECT campaign_execution_id, row_number() OVER (PARTITION BY campaign_execution_id), test_case_id,
    '{}', id
FROM test_executions
WHERE campaign_execution_id IS NOT NULL;
INSERT INTO host_health (host_id, recorded_at, ok)
SELECT 'host-' || n, now() - make_interval(mins => minute), true
FROM generate_series(1, 500) AS n, generate_series(1, 40) AS minute;
INSERT INTO health_means (host_id, span, at, probes, answered)
SELECT 'host-' || n, span, date_trunc('hour', now()) - make_interval(mins => span * age), 6, 6
FROM generate_series(1, 500) AS n, generate_series(1, 10) AS age, (VALUES (10), (60)) AS s (span);
INSERT INTO idempotency_keys (user_id, method, path, key, body_hash, execution_id)
SELECT 'ann', 'POST', '/', 'key-' || n, '\x00', 'execution-' || n
FROM generate_series(1, 5000) AS n;
INSERT INTO tokens (id, name, role, host_id, hash, created_by)
SELECT 'token-' || n, 'token', 'host', 'host-' || n % 500 + 1, decode(to_hex(n + 65536) || '0', 'hex'),
    'ann'
FROM generate_series(1, 1000) AS n;
INSERT INTO audit (id, at, user_id, role, method, route, path, status, peer, request_id)
SELECT 'entry-' || n, now() - make_interval(secs => n), 'user-' || n % 50, 'operator', 'POST', '/', '/',
    200, '127.0.0.1', 'request-' || n
FROM generate_series(1, 10000) AS n;
INSERT INTO screenshots_to_remove (execution_id)
SELECT 'execution-' || n
FROM generate_series(1, 1000) AS n;
