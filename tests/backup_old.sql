-- An execution as the schema was before its final event was kept.
INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
    steps, actions, queue_timeout_s, requested_by, status, attempt, host_id, completed_at)
VALUES ('e', 't', 't', 1, 'm', '[]', '{a}', 1, 'ann', 'completed', 1, 'h', now());
INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq, status, completed_at,
    released_at)
VALUES ('e', 1, 'h', 'd', 1, 'completed', now(), now());
INSERT INTO execution_steps (execution_id, attempt, step, action, status, seq)
VALUES ('e', 1, 1, 'a', 'passed', 2), ('e', 1, 2, 'b', 'passed', 3);
