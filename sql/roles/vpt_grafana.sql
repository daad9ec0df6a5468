-- What Grafana may read. Columns are named, so that a new one stays closed until it stands here:
-- parameters, outputs, tokens, keys and leases never do.
REVOKE ALL ON hosts, devices, test_cases, campaigns, campaign_executions, test_executions,
    execution_attempts, execution_steps, host_health, health_means, server_instance, grafana_page
    FROM vpt_grafana;
GRANT USAGE ON SCHEMA public TO vpt_grafana;
GRANT SELECT (id, dialect, capabilities, tags, draining, status, reason, reason_until, trouble_kind,
    trouble_since, last_seen, registered_at, created_at) ON hosts TO vpt_grafana;
GRANT SELECT (id, host_id, local_id, name, model, capabilities, tags, declared, withdrawn, disabled,
    status, reason, reason_until, last_seen, created_at) ON devices TO vpt_grafana;
GRANT SELECT (id, name, device_model, tags, version, created_at, updated_at)
    ON test_cases TO vpt_grafana;
GRANT SELECT (id, name, parallelism, priority, created_at, updated_at) ON campaigns TO vpt_grafana;
GRANT SELECT (id, campaign_id, name, requested_by, status, total, created_at, started_at,
    completed_at) ON campaign_executions TO vpt_grafana;
GRANT SELECT (id, test_case_id, test_case_name, test_case_version, device_model, timeout_s, priority,
    requested_by, campaign_execution_id, status, error_kind, attempt, infra_failures, test_failures,
    host_id, device_id, created_at, queued_at, started_at, completed_at)
    ON test_executions TO vpt_grafana;
GRANT SELECT (execution_id, attempt, host_id, device_id, status, error_kind, started_at,
    completed_at, released_at) ON execution_attempts TO vpt_grafana;
GRANT SELECT (execution_id, attempt, step, action, status, tries, started_at, finished_at,
    duration_ms) ON execution_steps TO vpt_grafana;
GRANT SELECT (host_id, recorded_at, ok, probes, response_ms, cpu_percent, memory_percent,
    disk_percent, temperature, load_1m) ON host_health TO vpt_grafana;
GRANT SELECT (host_id, span, at, ok, probes, answered, response_ms, cpu_percent, memory_percent,
    disk_percent, temperature, load_1m) ON health_means TO vpt_grafana;
GRANT EXECUTE ON FUNCTION means_of_health, health_span, health_over TO vpt_grafana;
GRANT SELECT (expires_at) ON server_instance TO vpt_grafana;
GRANT SELECT (url) ON grafana_page TO vpt_grafana;
-- Temporary tables are PostgreSQL's gift to everybody, and nobody here needs any.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;
