-- A test case as clients see it, made once when it is written: a list of 50 costs a third.

-- Immutable, whatever to_char and to_json say in general: zone and format are fixed here.
CREATE FUNCTION test_case_item(
    id text, name text, description text, steps json, device_model text, requirements text[],
    tags text[], timeout_s double precision, test_retries integer, version integer,
    created_at timestamptz, updated_at timestamptz
) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT row_to_json(item)::text
    FROM (
        SELECT
            id, name, description, steps, device_model, requirements, tags, timeout_s,
            test_retries, version,
            to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
    ) AS item
$$;

ALTER TABLE test_cases ADD COLUMN item text NOT NULL GENERATED ALWAYS AS (
    test_case_item(
        id, name, description, steps, device_model, requirements, tags, timeout_s, test_retries,
        version, created_at, updated_at
    )
) STORED;
