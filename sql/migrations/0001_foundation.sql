-- Everything that must outlive a process: the lab, what to run, what ran.
-- Words are those of the documentation; invariants are constraints with names.

CREATE FUNCTION iso(moment timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$;

-- One server per database: its row, renewed while it lives.
CREATE TABLE server_instance (
    only_one boolean PRIMARY KEY DEFAULT true CONSTRAINT server_instance_only_one CHECK (only_one),
    id text NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE hosts (
    id text PRIMARY KEY CONSTRAINT hosts_id_form CHECK (id ~ '^[A-Za-z0-9._-]{1,64}$'),
    host_url text NOT NULL,
    dialect text NOT NULL CONSTRAINT hosts_dialect CHECK (dialect IN ('document', 'virtualpytest')),
    credential text NOT NULL CONSTRAINT hosts_credential CHECK (credential IN ('open', 'join', 'own')),
    capabilities text[] NOT NULL DEFAULT '{}',
    hardware jsonb NOT NULL DEFAULT '{}',
    idempotency boolean NOT NULL DEFAULT false,
    cancel boolean NOT NULL DEFAULT false,
    sealed_secret bytea,
    sealed_api_key bytea,
    tags text[] NOT NULL DEFAULT '{}',
    draining boolean NOT NULL DEFAULT false,
    status text NOT NULL DEFAULT 'suspect' CONSTRAINT hosts_status CHECK
        (status IN ('available', 'busy', 'suspect', 'lost', 'draining', 'offline')),
    reason text CONSTRAINT hosts_reason CHECK (reason IN ('probes', 'flapping', 'broken')),
    reason_until timestamptz,
    last_seen timestamptz,
    registered_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX hosts_newest ON hosts (created_at DESC, id DESC);

-- A host's implicit device has the host's id and no local_id. A device that a host no longer
-- declares stays (its tags and its history are people's work) until somebody deletes it.
CREATE TABLE devices (
    id text PRIMARY KEY,
    host_id text CONSTRAINT devices_host REFERENCES hosts ON DELETE CASCADE,
    local_id text CONSTRAINT devices_local_id_form CHECK (local_id ~ '^[A-Za-z0-9._-]{1,64}$'),
    name text NOT NULL,
    model text,
    capabilities text[] NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    declared boolean NOT NULL DEFAULT false,
    withdrawn boolean NOT NULL DEFAULT false,
    name_edited boolean NOT NULL DEFAULT false,
    capabilities_edited boolean NOT NULL DEFAULT false,
    disabled boolean NOT NULL DEFAULT false,
    status text NOT NULL DEFAULT 'offline' CONSTRAINT devices_status CHECK
        (status IN ('online', 'busy', 'leased', 'offline', 'disabled')),
    last_seen timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT devices_local_needs_host CHECK (local_id IS NULL OR host_id IS NOT NULL)
);
CREATE UNIQUE INDEX devices_local_id_once ON devices (host_id, local_id) WHERE local_id IS NOT NULL;
CREATE INDEX devices_newest ON devices (created_at DESC, id DESC);

CREATE TABLE test_cases (
    id text PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    steps json NOT NULL,
    device_model text NOT NULL,
    requirements text[] NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    timeout_s double precision,
    test_retries integer NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX test_cases_newest ON test_cases (created_at DESC, id DESC);

CREATE TABLE campaigns (
    id text PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    stop_on_failure boolean NOT NULL DEFAULT false,
    parallelism integer NOT NULL DEFAULT 1,
    priority integer NOT NULL DEFAULT 50,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX campaigns_newest ON campaigns (created_at DESC, id DESC);

CREATE TABLE campaign_entries (
    campaign_id text NOT NULL REFERENCES campaigns ON DELETE CASCADE,
    position integer NOT NULL,
    test_case_id text NOT NULL CONSTRAINT campaign_entries_test_case REFERENCES test_cases,
    device_id text,
    host_id text,
    parameters jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (campaign_id, position)
);
CREATE INDEX campaign_entries_of_test_case ON campaign_entries (test_case_id);

CREATE TABLE campaign_executions (
    id text PRIMARY KEY,
    campaign_id text NOT NULL,
    name text NOT NULL,
    stop_on_failure boolean NOT NULL,
    parallelism integer NOT NULL,
    priority integer NOT NULL,
    requested_by text NOT NULL,
    status text NOT NULL DEFAULT 'running' CONSTRAINT campaign_executions_status CHECK
        (status IN ('running', 'completed', 'failed', 'error', 'cancelled')),
    total integer NOT NULL,
    seq integer NOT NULL DEFAULT 0,
    cancel_requested_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    CONSTRAINT campaign_executions_end CHECK ((status = 'running') = (completed_at IS NULL))
);
CREATE INDEX campaign_executions_newest ON campaign_executions (created_at DESC, id DESC);
CREATE INDEX campaign_executions_of_campaign ON campaign_executions (campaign_id, started_at);
CREATE INDEX campaign_executions_running ON campaign_executions (id) WHERE status = 'running';

-- An execution keeps its own copy of all that it runs: later edits never rewrite history.
-- It names test case, host and device without a foreign key, so that history outlives them.
CREATE TABLE test_executions (
    id text PRIMARY KEY,
    test_case_id text NOT NULL,
    test_case_name text NOT NULL,
    test_case_version integer NOT NULL,
    device_model text NOT NULL,
    requirements text[] NOT NULL DEFAULT '{}',
    steps json NOT NULL,
    actions text[] NOT NULL,
    parameters jsonb NOT NULL DEFAULT '{}',
    timeout_s double precision,
    test_retries integer NOT NULL DEFAULT 0,
    wanted_device_id text,
    wanted_host_id text,
    priority integer NOT NULL DEFAULT 50 CONSTRAINT test_executions_priority CHECK
        (priority BETWEEN 0 AND 100),
    queue_timeout_s double precision NOT NULL,
    requested_by text NOT NULL,
    campaign_execution_id text REFERENCES campaign_executions,
    status text NOT NULL DEFAULT 'queued' CONSTRAINT test_executions_status CHECK
        (status IN ('queued', 'running', 'completed', 'failed', 'error', 'cancelled')),
    error_kind text CONSTRAINT test_executions_error_kind CHECK
        (error_kind IN ('host_lost', 'host_error', 'host_refused', 'step_timeout', 'run_timeout',
                        'queue_timeout', 'server_restarted', 'internal')),
    error text,
    attempt integer NOT NULL DEFAULT 0,
    infra_failures integer NOT NULL DEFAULT 0,
    test_failures integer NOT NULL DEFAULT 0,
    refused_by text[] NOT NULL DEFAULT '{}',
    host_id text,
    device_id text,
    seq integer NOT NULL DEFAULT 0,
    cancel_requested_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    results jsonb,
    CONSTRAINT test_executions_end CHECK
        ((status IN ('queued', 'running')) = (completed_at IS NULL)),
    CONSTRAINT test_executions_kind_of_error CHECK ((status = 'error') = (error_kind IS NOT NULL))
);
CREATE INDEX test_executions_newest ON test_executions (created_at DESC, id DESC);
CREATE INDEX test_executions_started ON test_executions (started_at);
CREATE INDEX test_executions_open ON test_executions (status, queued_at)
    WHERE status IN ('queued', 'running');
CREATE INDEX test_executions_by_status ON test_executions (status, created_at DESC, id DESC);
CREATE INDEX test_executions_of_test_case ON test_executions (test_case_id, created_at DESC, id DESC);
CREATE INDEX test_executions_of_device ON test_executions (device_id, created_at DESC, id DESC);
CREATE INDEX test_executions_of_host ON test_executions (host_id, created_at DESC, id DESC);
CREATE INDEX test_executions_of_campaign ON test_executions (campaign_execution_id, created_at DESC, id DESC)
    WHERE campaign_execution_id IS NOT NULL;

-- What a campaign execution works through: `request` is all that the execution will be made of.
CREATE TABLE campaign_results (
    campaign_execution_id text NOT NULL REFERENCES campaign_executions ON DELETE CASCADE,
    position integer NOT NULL,
    test_case_id text NOT NULL,
    request jsonb NOT NULL,
    execution_id text CONSTRAINT campaign_results_execution REFERENCES test_executions ON DELETE SET NULL,
    skipped boolean NOT NULL DEFAULT false,
    PRIMARY KEY (campaign_execution_id, position),
    CONSTRAINT campaign_results_skipped_never_ran CHECK (NOT (skipped AND execution_id IS NOT NULL))
);
CREATE UNIQUE INDEX campaign_results_of_execution ON campaign_results (execution_id)
    WHERE execution_id IS NOT NULL;

-- released_at: when the device was given out again; later than completed_at while its fate is open.
CREATE TABLE execution_attempts (
    execution_id text NOT NULL REFERENCES test_executions ON DELETE CASCADE,
    attempt integer NOT NULL,
    host_id text NOT NULL,
    device_id text NOT NULL,
    status text NOT NULL DEFAULT 'running' CONSTRAINT execution_attempts_status CHECK
        (status IN ('running', 'completed', 'failed', 'error', 'cancelled')),
    error_kind text,
    error text,
    seq integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    released_at timestamptz,
    PRIMARY KEY (execution_id, attempt),
    CONSTRAINT execution_attempts_end CHECK ((status = 'running') = (completed_at IS NULL)),
    CONSTRAINT execution_attempts_release CHECK (released_at IS NULL OR completed_at IS NOT NULL)
);
CREATE UNIQUE INDEX one_attempt_a_device ON execution_attempts (device_id) WHERE released_at IS NULL;
CREATE UNIQUE INDEX one_running_attempt_an_execution ON execution_attempts (execution_id)
    WHERE status = 'running';

-- A step's row stands, running, before the step is sent: after a crash it names the key in flight.
CREATE TABLE execution_steps (
    execution_id text NOT NULL,
    attempt integer NOT NULL,
    step integer NOT NULL CONSTRAINT execution_steps_from_one CHECK (step >= 1),
    action text NOT NULL,
    status text NOT NULL DEFAULT 'running' CONSTRAINT execution_steps_status CHECK
        (status IN ('running', 'passed', 'failed', 'error', 'skipped')),
    tries integer NOT NULL DEFAULT 1,
    started_at timestamptz DEFAULT now(),
    finished_at timestamptz,
    duration_ms double precision,
    output text,
    error text,
    screenshot text CONSTRAINT execution_steps_screenshot CHECK (screenshot IN ('png', 'jpeg')),
    seq integer,
    PRIMARY KEY (execution_id, attempt, step),
    FOREIGN KEY (execution_id, attempt) REFERENCES execution_attempts ON DELETE CASCADE
);

CREATE TABLE host_health (
    host_id text NOT NULL REFERENCES hosts ON DELETE CASCADE,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    ok boolean,
    response_ms double precision,
    cpu_percent double precision,
    memory_percent double precision,
    disk_percent double precision,
    temperature double precision,
    load_1m double precision
);
CREATE INDEX host_health_of_host ON host_health (host_id, recorded_at);

CREATE TABLE idempotency_keys (
    user_id text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    key text NOT NULL CONSTRAINT idempotency_keys_length CHECK (length(key) <= 200),
    body_hash bytea NOT NULL,
    execution_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, method, path, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE leases (
    id text PRIMARY KEY,
    device_id text NOT NULL CONSTRAINT one_lease_a_device UNIQUE REFERENCES devices ON DELETE CASCADE,
    holder text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
