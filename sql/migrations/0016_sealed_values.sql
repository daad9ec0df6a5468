-- Secrets: named ones, which an admin keeps, and the values of a test case's secret parameters.

-- `sealed_value` is sealed with a key made of SECRET_KEY (vpt/store/seal.py) and never read back.
CREATE TABLE secrets (
    name text PRIMARY KEY,
    sealed_value bytea NOT NULL,
    created_by text NOT NULL,
    updated_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX secrets_newest ON secrets (created_at DESC, name DESC);

-- What a test case says of its parameters: {"<name>": {"secret": true}}.
ALTER TABLE test_cases ADD COLUMN parameters json NOT NULL DEFAULT '{}';

ALTER TABLE test_cases DROP COLUMN item;
DROP FUNCTION test_case_item;
CREATE FUNCTION test_case_item(
    id text, name text, description text, steps json, parameters json, device_model text,
    requirements text[], tags text[], timeout_s double precision, test_retries integer,
    version integer, created_at timestamptz, updated_at timestamptz
) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT row_to_json(item)::text
    FROM (
        SELECT
            id, name, description, steps, parameters, device_model, requirements, tags, timeout_s,
            test_retries, version,
            to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
    ) AS item
$$;
ALTER TABLE test_cases ADD COLUMN item text NOT NULL GENERATED ALWAYS AS (
    test_case_item(
        id, name, description, steps, parameters, device_model, requirements, tags, timeout_s,
        test_retries, version, created_at, updated_at
    )
) STORED;

-- Steps with secrets, as they are sent: a mark stands where a value goes. `steps` has *** there.
ALTER TABLE test_executions
    ADD COLUMN secret_steps json,
    ADD COLUMN sealed_values bytea,
    ADD CONSTRAINT test_executions_values_go CHECK (completed_at IS NULL OR sealed_values IS NULL),
    DROP CONSTRAINT test_executions_error_kind,
    ADD CONSTRAINT test_executions_error_kind CHECK
        (error_kind IN ('host_lost', 'host_error', 'host_refused', 'step_timeout', 'run_timeout',
                        'queue_timeout', 'server_restarted', 'internal', 'config'));
