-- What lists need: test cases without their steps, and two more filters of executions.

-- A test case as clients see it, with the number of its steps in place of the steps: they are
-- added where they are asked for, since a list of a thousand could have a gigabyte of them.
CREATE FUNCTION listed_test_case(
    id text, name text, description text, steps json, parameters json, device_model text,
    requirements text[], tags text[], timeout_s double precision, test_retries integer,
    version integer, created_at timestamptz, updated_at timestamptz
) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT row_to_json(item)::text
    FROM (
        SELECT
            id, name, description, json_array_length(steps) AS total_steps, parameters,
            device_model, requirements, tags, timeout_s, test_retries, version,
            to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
    ) AS item
$$;

-- Immutable as well: a json value is its text.
CREATE FUNCTION bytes_of_json(value json) RETURNS integer
LANGUAGE sql IMMUTABLE
AS $$ SELECT octet_length(value::text) $$;

ALTER TABLE test_cases
    DROP COLUMN item,
    ADD COLUMN listed text NOT NULL GENERATED ALWAYS AS (
        listed_test_case(
            id, name, description, steps, parameters, device_model, requirements, tags, timeout_s,
            test_retries, version, created_at, updated_at
        )
    ) STORED,
    ADD COLUMN steps_bytes integer NOT NULL GENERATED ALWAYS AS (bytes_of_json(steps)) STORED;
DROP FUNCTION test_case_item;

CREATE INDEX test_executions_of_user ON test_executions (requested_by, created_at DESC, id DESC);
CREATE INDEX test_executions_by_error ON test_executions (error_kind, created_at DESC, id DESC)
    WHERE error_kind IS NOT NULL;
