-- A test case may ask for one of several device models: `device_models` has all of them, in order, and
-- `device_model` the first; with one only, `device_models` is empty. An execution that began has in
-- `device_model` the one of the device that it runs on, so history, estimates and panels are by that.

ALTER TABLE test_executions ADD COLUMN device_models text[] NOT NULL DEFAULT '{}';
ALTER TABLE test_cases ADD COLUMN device_models text[] NOT NULL DEFAULT '{}';

-- What is asked for as clients see it: a text, or a list when there are several.
CREATE FUNCTION wanted_models(device_model text, device_models text[]) RETURNS json
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN device_models = '{}' THEN to_json(device_model) ELSE to_json(device_models) END $$;

ALTER TABLE test_cases DROP COLUMN listed;
DROP FUNCTION listed_test_case;
CREATE FUNCTION listed_test_case(
    id text, name text, description text, steps json, parameters json, device_model text,
    device_models text[], requirements text[], tags text[], timeout_s double precision,
    test_retries integer, version integer, created_at timestamptz, updated_at timestamptz
) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT row_to_json(item)::text
    FROM (
        SELECT
            id, name, description, json_array_length(steps) AS total_steps, parameters,
            CASE WHEN device_models = '{}' THEN to_json(device_model) ELSE to_json(device_models) END
                AS device_model,
            requirements, tags, timeout_s, test_retries, version,
            to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
    ) AS item
$$;
ALTER TABLE test_cases ADD COLUMN listed text NOT NULL GENERATED ALWAYS AS (
    listed_test_case(
        id, name, description, steps, parameters, device_model, device_models, requirements, tags,
        timeout_s, test_retries, version, created_at, updated_at
    )
) STORED;

-- The system that an execution was imported from, as history; NULL for those of this lab.
ALTER TABLE test_executions ADD COLUMN imported_from text;
