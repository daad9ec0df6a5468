-- Test cases as clients see them. `item` is stored as JSON text, so that a list needs no encoding.

-- test_case_items(limit, before_at, before_id, q, device_model, tag)
SELECT item, created_at, id
FROM test_cases
WHERE (created_at, id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    AND ($4::text IS NULL OR strpos(lower(name), lower($4)) > 0)
    AND ($5::text IS NULL OR device_model = $5)
    AND ($6::text IS NULL OR $6 = ANY (tags))
ORDER BY created_at DESC, id DESC
LIMIT $1::int;

-- test_case_item(id)
SELECT version, item
FROM test_cases
WHERE id = $1;

-- test_case_to_run(id)
SELECT id, name, version, device_model, requirements, steps::text AS steps, parameters, timeout_s,
    test_retries
FROM test_cases
WHERE id = $1;

-- test_cases_to_run(ids)
-- Without steps: those of a campaign's test cases may be gigabytes together.
SELECT id, name, version, device_model, requirements, parameters, timeout_s, test_retries
FROM test_cases
WHERE id = ANY ($1::text[]);

-- test_case_steps(id, version)
-- No row when the test case is another one by now.
SELECT steps::text
FROM test_cases
WHERE id = $1 AND version = $2;

-- insert_test_case(id, name, description, steps, device_model, requirements, tags, timeout_s, test_retries)
INSERT INTO test_cases
    (id, name, description, steps, device_model, requirements, tags, timeout_s, test_retries)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- set_test_case_parameters(id, parameters)
-- In the transaction of the two statements around it; most test cases say nothing of parameters.
UPDATE test_cases
SET parameters = $2
WHERE id = $1
    AND parameters::text <> $2::json::text;

-- update_test_case(id, versions, name, description, steps, device_model, requirements, tags, timeout_s, test_retries)
-- `versions`: only one of these is overwritten (from If-Match); NULL for any.
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
    test_retries = $10
WHERE id = $1
    AND ($2::int[] IS NULL OR version = ANY ($2))
RETURNING id;

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
