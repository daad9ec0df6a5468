-- Test cases as clients see them: `listed` is stored as JSON text without the steps, so that a list
-- needs no encoding.

-- test_case_items(limit, before_at, before_id, bytes, steps, q, device_model, tag)
-- With their steps where `steps` is true. `bytes` as in `host_items`.
SELECT
    id, created_at,
    CASE
        WHEN row_number() OVER page > 1 AND sum(size) OVER page > $4::int THEN NULL
        WHEN $5::boolean THEN concat(left(listed, -1), ',"steps":', steps, '}')
        ELSE listed
    END AS item
FROM (
    SELECT
        id, created_at, listed, steps,
        octet_length(listed) + CASE WHEN $5 THEN steps_bytes + 10 ELSE 0 END AS size
    FROM test_cases
    WHERE (created_at, id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
        AND ($6::text IS NULL OR strpos(lower(name), lower($6)) > 0)
        AND ($7::text IS NULL OR device_model = $7 OR $7 = ANY (device_models))
        AND ($8::text IS NULL OR $8 = ANY (tags))
    ORDER BY created_at DESC, id DESC
    LIMIT $1::int
) AS found
WINDOW page AS (ORDER BY created_at DESC, id DESC ROWS UNBOUNDED PRECEDING)
ORDER BY created_at DESC, id DESC;

-- test_case_item(id)
SELECT version, concat(left(listed, -1), ',"steps":', steps, '}') AS item
FROM test_cases
WHERE id = $1;

-- test_case_to_run(id)
SELECT id, name, version, device_model, device_models, requirements, steps::text AS steps, parameters, timeout_s,
    test_retries
FROM test_cases
WHERE id = $1;

-- test_cases_to_run(ids)
-- Without steps: those of a campaign's test cases may be gigabytes together.
SELECT id, name, version, device_model, device_models, requirements, parameters, timeout_s, test_retries
FROM test_cases
WHERE id = ANY ($1::text[]);

-- test_case_steps(id, version)
-- No row when the test case is another one by now.
SELECT steps::text
FROM test_cases
WHERE id = $1 AND version = $2;

-- insert_test_case(id, name, description, steps, device_model, requirements, tags, timeout_s, test_retries, device_models)
-- `device_models`: all of them, the first one too, where there are several; else none.
INSERT INTO test_cases
    (id, name, description, steps, device_model, requirements, tags, timeout_s, test_retries, device_models)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- set_test_case_parameters(id, parameters)
-- In the transaction of the two statements around it; most test cases say nothing of parameters.
UPDATE test_cases
SET parameters = $2
WHERE id = $1
    AND parameters::text <> $2::json::text;

-- update_test_case(id, versions, name, description, steps, device_model, requirements, tags, timeout_s, test_retries, device_models)
-- `versions`: only one of these is overwritten (from If-Match); NULL for any. The answer has the
-- parameters as they were.
UPDATE test_cases
SET
    version = version + 1,
    updated_at = now(),
    name = $3,
    description = $4,
    steps = $5,
    device_model = $6,
    requirements = $7,
    tags = $8,
    timeout_s = $9,
    test_retries = $10,
    device_models = $11
WHERE id = $1
    AND ($2::int[] IS NULL OR version = ANY ($2))
RETURNING parameters;

-- delete_test_case(id, versions)
DELETE FROM test_cases
WHERE id = $1
    AND ($2::int[] IS NULL OR version = ANY ($2))
RETURNING id;

-- devices_named(device_id, host_id)
-- Devices whose id or local_id is `device_id`: the name is clear when there is one.
SELECT id
FROM devices
WHERE (id = $1 OR local_id = $1)
    AND ($2::text IS NULL OR host_id = $2)
ORDER BY id
LIMIT 4;
