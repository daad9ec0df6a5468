-- A small lab in which each row stands for a state; ids say which.
INSERT INTO hosts (id, host_url, dialect, credential, status, last_seen)
VALUES ('host', 'http://host', 'document', 'join', 'busy', now() - interval '1 hour'),
    ('other_host', 'http://other', 'document', 'join', 'available', now() - interval '1 hour'),
    ('offline_host', 'http://offline', 'document', 'join', 'offline', now() - interval '1 hour');
INSERT INTO device_schemas (hash, schema)
VALUES ('\x01', '{}'), ('\x02', '{}');
INSERT INTO devices (id, host_id, name, declared, withdrawn, status, schema_hash, last_seen)
VALUES ('free', 'host', 'free', true, false, 'online', '\x01', NULL),
    ('busy', 'host', 'busy', true, false, 'busy', NULL, NULL),
    ('held', 'host', 'held', true, false, 'offline', NULL, NULL),
    ('leased', 'host', 'leased', true, false, 'leased', NULL, NULL),
    ('withdrawn', 'host', 'withdrawn', false, true, 'offline', NULL, NULL),
    ('added', 'host', 'added by a person', false, false, 'offline', NULL, NULL),
    ('of_other_host', 'other_host', 'of another host', true, false, 'online', '\x01', NULL),
    ('of_no_host', NULL, 'of no host', false, false, 'offline', NULL, NULL);
INSERT INTO leases (id, device_id, holder, created_at, expires_at)
VALUES ('lease', 'leased', 'ann', now() - interval '1 hour', now() + interval '1 hour'),
    ('expired_lease', 'of_no_host', 'ann', now() - interval '1 hour', now() - interval '1 hour'),
    ('just_expired', 'added', 'ann', now() - interval '1 hour', now() - interval '10 seconds');
INSERT INTO test_cases (id, name, steps, device_model)
VALUES ('case', 'case', '[]', 'phone');
INSERT INTO campaigns (id, name, version)
VALUES ('campaign', 'campaign', 3), ('other_campaign', 'other', 3);
INSERT INTO campaign_entries (campaign_id, position, test_case_id)
VALUES ('campaign', 0, 'case'), ('other_campaign', 0, 'case');
INSERT INTO campaign_executions (id, campaign_id, name, stop_on_failure, parallelism, priority,
    requested_by, status, total, seq, completed_at)
VALUES ('campaign_runs', 'campaign', 'c', false, 1, 50, 'ann', 'running', 3, 2, NULL),
    ('campaign_ended', 'campaign', 'c', false, 1, 50, 'ann', 'failed', 1, 2, now() - interval '1 hour');
INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model, steps,
    actions, queue_timeout_s, requested_by, status, error_kind, attempt, host_id, device_id, seq,
    queued_at, started_at, completed_at)
SELECT id, 'case', 'case', 1, 'phone', '[{}, {}, {}]', '{one,two,three}', 60, 'ann', status, error_kind,
    attempt, host_id, device_id, seq, now() - interval '1 hour', now() - interval '1 hour' * attempt,
    CASE WHEN status NOT IN ('queued', 'running') THEN now() - interval '1 minute' END
FROM (VALUES
    ('queued', 'queued', NULL, 0, NULL, NULL, 0),
    ('runs', 'running', NULL, 2, 'host', 'busy', 1),
    ('other_runs', 'running', NULL, 2, 'other_host', 'of_other_host', 1),
    ('ended', 'completed', NULL, 1, 'host', 'free', 5),
    ('lost', 'error', 'host_lost', 1, 'host', 'held', 3)
) AS e (id, status, error_kind, attempt, host_id, device_id, seq);
INSERT INTO campaign_results (campaign_execution_id, position, test_case_id, request, execution_id,
    skipped)
VALUES ('campaign_runs', 0, 'case', '{}', 'ended', false),
    ('campaign_runs', 1, 'case', '{}', NULL, false),
    ('campaign_runs', 2, 'case', '{}', NULL, true),
    ('campaign_ended', 0, 'case', '{}', 'lost', false);
INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, status, seq, started_at,
    completed_at, released_at)
VALUES ('runs', 1, 'host', 'free', 'error', 0, now() - interval '2 hours',
        now() - interval '1 hour', now() - interval '1 hour'),
    ('runs', 2, 'host', 'busy', 'running', 1, now() - interval '1 hour', NULL, NULL),
    ('other_runs', 2, 'other_host', 'of_other_host', 'running', 1, now() - interval '1 hour', NULL,
        NULL),
    ('ended', 1, 'host', 'free', 'completed', 1, now() - interval '1 hour',
        now() - interval '1 minute', now() - interval '1 minute'),
    ('lost', 1, 'host', 'held', 'error', 1, now() - interval '1 hour', now() - interval '1 minute',
        NULL);
INSERT INTO execution_steps (execution_id, attempt, step, action, status, started_at, finished_at, seq)
VALUES ('runs', 1, 1, 'one', 'passed', now() - interval '2 hours', now() - interval '1 hour', NULL),
    ('runs', 1, 2, 'two', 'error', now() - interval '2 hours', now() - interval '1 hour', NULL),
    ('runs', 2, 1, 'one', 'passed', now() - interval '1 hour', now() - interval '1 minute', 2),
    ('runs', 2, 2, 'two', 'running', now() - interval '1 minute', NULL, NULL),
    ('other_runs', 2, 1, 'one', 'passed', now() - interval '1 hour', now() - interval '1 minute', 2),
    ('other_runs', 2, 2, 'two', 'running', now() - interval '1 minute', NULL, NULL),
    ('ended', 1, 1, 'one', 'passed', now() - interval '1 hour', now() - interval '1 minute', 2),
    ('lost', 1, 1, 'one', 'error', now() - interval '1 hour', now() - interval '1 minute', NULL);
INSERT INTO server_instance (id, expires_at)
VALUES ('server', now() + interval '1 hour');
INSERT INTO tokens (id, name, role, host_id, hash, created_by, expires_at)
VALUES ('token', 'ann', 'operator', NULL, NULL, 'ann', now() + interval '1 hour'),
    ('expired_token', 'ann', 'operator', NULL, NULL, 'ann', now() - interval '1 hour'),
    ('host_token', 'host', 'host', 'host', '\x01', 'ann', NULL);
