-- A healthy lab of a day: two hosts, four devices, three tests (one of them flips), a campaign.
INSERT INTO hosts (id, host_url, dialect, credential, status, last_seen, created_at)
SELECT id, 'http://' || id, 'document', 'join', 'available', now(), now() - interval '9 days'
FROM unnest('{pi-1,pi-2}'::text[]) AS id;
INSERT INTO devices (id, host_id, local_id, name, model, declared, status, last_seen)
SELECT h || '-' || n, h, n::text, 'O''Neill ' || n, 'pixel', true, 'online', now()
FROM unnest('{pi-1,pi-2}'::text[]) AS h, generate_series(1, 2) AS n;
INSERT INTO test_cases (id, name, steps, device_model)
SELECT 't' || n, 'Test ' || n, '[]', 'pixel' FROM generate_series(1, 3) AS n;
INSERT INTO campaigns (id, name) VALUES ('nightly', 'Nightly');
INSERT INTO campaign_executions (id, campaign_id, name, stop_on_failure, parallelism, priority,
    requested_by, status, total, started_at, completed_at)
SELECT 'c' || n, 'nightly', 'Nightly', false, 1, 50, 'ann', 'completed', 2,
    now() - n * interval '6 hours', now() - n * interval '6 hours' + interval '1 hour'
FROM generate_series(1, 3) AS n;
-- Every 10 minutes one: of 20, 18 pass, one fails, one meets infrastructure.
INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
    steps, actions, queue_timeout_s, requested_by, campaign_execution_id, status, error_kind, attempt,
    host_id, device_id, created_at, queued_at, started_at, completed_at)
SELECT 'e' || n, 't' || n % 3 + 1, 'Test ' || n % 3 + 1, 1, 'pixel', '[]', '{a}', 3600, 'ann',
    CASE WHEN n % 50 = 0 THEN 'c1' END,
    CASE n % 20 WHEN 7 THEN 'failed' WHEN 13 THEN 'error' ELSE 'completed' END,
    CASE n % 20 WHEN 13 THEN 'host_lost' END, 1, 'pi-' || n % 2 + 1,
    'pi-' || n % 2 + 1 || '-' || n / 2 % 2 + 1, at, at, at, at + interval '90 seconds'
FROM (SELECT n, now() - n * interval '10 minutes' AS at FROM generate_series(1, 140) AS n) AS e;
INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, status, error_kind, seq,
    started_at, completed_at, released_at)
SELECT id, 1, host_id, device_id, status, error_kind, 1, started_at, completed_at, completed_at
FROM test_executions;
INSERT INTO execution_steps (execution_id, attempt, step, action, status, started_at, finished_at,
    duration_ms, seq)
SELECT id, 1, 1, 'tap', CASE status WHEN 'completed' THEN 'passed' ELSE status END, started_at,
    completed_at, 90000, 1
FROM test_executions;
INSERT INTO host_health (host_id, recorded_at, ok, response_ms, cpu_percent, memory_percent,
    disk_percent, temperature, load_1m)
SELECT 'pi-' || h, now() - n * interval '1 minute', true, 12, 30, 40, 50, 55, 0.5
FROM generate_series(1, 2) AS h, generate_series(0, 1440) AS n;
INSERT INTO server_instance (id, expires_at) VALUES ('one', now() + interval '10 seconds');
