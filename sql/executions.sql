-- Executions and campaign executions as clients see them; runs.sql writes them.

-- plan_anew()
-- Used before `execution_page`: which index is best depends on the values of the filters.
SET LOCAL plan_cache_mode = force_custom_plan;

-- Texts of hosts are up to 1 MiB each, so answers show how they begin. `left` and `octet_length`
-- read no more of a long value than that: it stands in slices, beside its row.

-- execution_page(limit, before_at, before_id, bytes, status, test_case_id, host_id, device_id, campaign_execution_id, error_kind, requested_by, since, until)
-- `bytes` as in `host_items`.
SELECT
    string_agg(item, ',') FILTER (WHERE shown) AS items,
    min(created_at) FILTER (WHERE shown) AS last_at,
    (array_agg(id) FILTER (WHERE shown))[count(*) FILTER (WHERE shown)] AS last_id,
    count(*) > count(*) FILTER (WHERE shown) AS more
FROM (
    SELECT
        id, created_at, item,
        row_number() OVER page < $1
        AND (row_number() OVER page = 1 OR sum(octet_length(item)) OVER page <= $4::int) AS shown
    FROM (
        SELECT page.id, page.created_at, row_to_json(item)::text AS item
        FROM (
            SELECT *
            FROM test_executions
            WHERE (created_at, id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
                AND ($5::text IS NULL OR status = $5)
                AND ($6::text IS NULL OR test_case_id = $6)
                AND ($7::text IS NULL OR host_id = $7)
                AND ($8::text IS NULL OR device_id = $8)
                AND ($9::text IS NULL OR campaign_execution_id = $9)
                AND ($10::text IS NULL OR error_kind = $10)
                AND ($11::text IS NULL OR requested_by = $11)
                AND ($12::timestamptz IS NULL OR created_at >= $12)
                AND ($13::timestamptz IS NULL OR created_at < $13)
            ORDER BY created_at DESC, id DESC
            LIMIT $1::int
        ) AS page,
        LATERAL (
            SELECT
                page.id AS execution_id, page.test_case_id, page.test_case_name,
                page.test_case_version, page.campaign_execution_id, page.status, page.error_kind,
                left(page.error, 1000) AS error, page.host_id AS host, page.host_id,
                page.device_id, wanted_models(page.device_model, page.device_models) AS device_model,
                CASE WHEN page.device_id IS NOT NULL THEN page.device_model END AS model,
                page.priority, page.attempt,
                cardinality(page.actions) AS total_steps, page.results, page.requested_by,
                page.cancel_requested_at IS NOT NULL AS cancel_requested, page.pinned, page.pruned,
                page.imported_from,
                iso(page.created_at) AS created_at, iso(page.queued_at) AS queued_at,
                iso(page.started_at) AS started_at, iso(page.completed_at) AS completed_at,
                extract(epoch FROM page.completed_at - page.started_at)::float8 AS duration_s
        ) AS item
        ORDER BY page.created_at DESC, page.id DESC
    ) AS listed
    WINDOW page AS (ORDER BY created_at DESC, id DESC ROWS UNBOUNDED PRECEDING)
) AS bounded;

-- execution_item(id, attempt)
-- `attempt` NULL: the last one. No row: no such execution, or it has no such attempt.
-- Outputs are cut so that all steps together have at most a million characters of them.
SELECT row_to_json(item)::text
FROM test_executions AS e,
LATERAL (
    SELECT
        coalesce($2::int, e.attempt) AS n,
        least(10000, 1000000 / greatest(cardinality(e.actions), 1)) AS most
) AS shown,
LATERAL (
    SELECT
        e.id AS execution_id, e.test_case_id, e.test_case_name, e.test_case_version,
        e.campaign_execution_id, e.status, e.error_kind, left(e.error, 10000) AS error,
        e.host_id AS host, e.host_id,
        e.device_id, wanted_models(e.device_model, e.device_models) AS device_model,
        CASE WHEN e.device_id IS NOT NULL THEN e.device_model END AS model,
        e.requirements, e.parameters, e.timeout_s, e.test_retries,
        e.wanted_device_id, e.wanted_host_id, e.priority, e.queue_timeout_s, e.attempt,
        cardinality(e.actions) AS total_steps, e.results, e.requested_by,
        e.cancel_requested_at IS NOT NULL AS cancel_requested, e.pinned, e.pruned,
        e.imported_from,
        iso(e.created_at) AS created_at, iso(e.queued_at) AS queued_at,
        iso(e.started_at) AS started_at, iso(e.completed_at) AS completed_at,
        extract(epoch FROM e.completed_at - e.started_at)::float8 AS duration_s,
        (
            SELECT coalesce(json_agg(row_to_json(one) ORDER BY a.attempt), '[]')
            FROM execution_attempts AS a,
            LATERAL (
                SELECT
                    a.attempt, a.host_id AS host, a.device_id, a.status, a.error_kind,
                    left(a.error, 10000) AS error, iso(a.started_at) AS started_at, iso(a.completed_at) AS completed_at
            ) AS one
            WHERE a.execution_id = e.id
        ) AS attempts,
        (
            SELECT coalesce(json_agg(row_to_json(one) ORDER BY planned.index), '[]')
            FROM execution_attempts AS a
            CROSS JOIN ROWS FROM (unnest(e.actions), json_array_elements(e.steps))
                WITH ORDINALITY AS planned (action, step, index)
            LEFT JOIN execution_steps AS s
                ON s.execution_id = a.execution_id
                AND s.attempt = a.attempt
                AND s.step = planned.index
            CROSS JOIN LATERAL (
                SELECT left(s.output, shown.most) AS output, left(s.error, shown.most) AS error
            ) AS head
            CROSS JOIN LATERAL (
                SELECT
                    planned.index, planned.action, planned.step, coalesce(s.status, 'skipped') AS status,
                    coalesce(s.tries, 0) AS tries, iso(s.started_at) AS started_at,
                    iso(s.finished_at) AS finished_at, s.duration_ms,
                    head.output, octet_length(s.output) AS output_size,
                    coalesce(octet_length(head.output) < octet_length(s.output), false)
                        AS output_truncated,
                    head.error, octet_length(s.error) AS error_size,
                    coalesce(octet_length(head.error) < octet_length(s.error), false)
                        AS error_truncated,
                    CASE
                        WHEN s.screenshot IS NOT NULL
                        THEN concat('/screenshots/', e.id, '/', a.attempt, '/', s.step, '.png')
                    END AS screenshot_url,
                    (
                        SELECT coalesce(json_agg(json_build_object(
                            'url', concat('/screenshots/', e.id, '/', a.attempt, '/', s.step, '-',
                                other.picture ->> 'number', '.png'),
                            'caption', other.picture ->> 'caption') ORDER BY other.place), '[]')
                        FROM jsonb_array_elements(s.pictures)
                            WITH ORDINALITY AS other (picture, place)
                    ) AS pictures,
                    s.notes
            ) AS one
            WHERE a.execution_id = e.id
                AND a.attempt = shown.n
                AND e.pruned <> 'steps'
                AND (s.step IS NOT NULL OR a.status <> 'running')
        ) AS steps
) AS item
WHERE e.id = $1
    AND ($2 IS NULL OR EXISTS (
        SELECT
        FROM execution_attempts
        WHERE execution_id = e.id
            AND attempt = $2
    ));

-- step_texts(execution_id, attempt, step)
-- Whole. No row: there is no such step, or it is gone.
SELECT s.output, s.error
FROM execution_steps AS s
JOIN test_executions AS e ON e.id = s.execution_id
WHERE s.execution_id = $1
    AND s.attempt = $2
    AND s.step = $3
    AND e.pruned <> 'steps';

-- pin_execution(id, pinned)
UPDATE test_executions
SET pinned = $2
WHERE id = $1
RETURNING id;

-- campaign_execution_items(limit, before_at, before_id, status, campaign_id)
-- Without results: a page of them may be a hundred thousand.
SELECT c.id, c.created_at, row_to_json(item)::text AS item
FROM (
    SELECT *
    FROM campaign_executions
    WHERE (created_at, id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
        AND ($4::text IS NULL OR status = $4)
        AND ($5::text IS NULL OR campaign_id = $5)
    ORDER BY created_at DESC, id DESC
    LIMIT $1::int
) AS c
CROSS JOIN LATERAL campaign_summary(c.id, c.total, c.started_at, c.completed_at) AS summary
CROSS JOIN LATERAL (
    SELECT
        c.id AS campaign_execution_id, c.campaign_id, c.name, c.status, c.error_kind, c.error,
        c.stop_on_failure, c.parallelism, c.priority, c.requested_by,
        c.cancel_requested_at IS NOT NULL AS cancel_requested,
        iso(c.created_at) AS created_at, iso(c.started_at) AS started_at,
        iso(c.completed_at) AS completed_at, summary
) AS item
ORDER BY c.created_at DESC, c.id DESC;

-- campaign_execution_item(id)
-- `results` has what started and what was skipped; what still waits stands in no result.
SELECT row_to_json(item)::text
FROM campaign_executions AS c
CROSS JOIN LATERAL campaign_summary(c.id, c.total, c.started_at, c.completed_at) AS summary
CROSS JOIN LATERAL (
    SELECT coalesce(json_agg(row_to_json(one) ORDER BY r.position), '[]') AS results
    FROM campaign_results AS r
    LEFT JOIN test_executions AS e ON e.id = r.execution_id
    CROSS JOIN LATERAL (
        SELECT
            r.execution_id, r.test_case_id,
            coalesce(e.test_case_name, r.request ->> 'test_case_name') AS test_case_name,
            CASE WHEN r.skipped THEN 'skipped' ELSE e.status END AS status,
            e.error_kind, e.host_id AS host, e.device_id,
            extract(epoch FROM e.completed_at - e.started_at)::float8 AS duration_s
    ) AS one
    WHERE r.campaign_execution_id = c.id AND (r.skipped OR r.execution_id IS NOT NULL)
) AS entries
CROSS JOIN LATERAL (
    SELECT
        c.id AS campaign_execution_id, c.campaign_id, c.name, c.status, c.error_kind, c.error,
        c.stop_on_failure, c.parallelism, c.priority, c.requested_by,
        c.cancel_requested_at IS NOT NULL AS cancel_requested,
        iso(c.created_at) AS created_at, iso(c.started_at) AS started_at,
        iso(c.completed_at) AS completed_at, entries.results, summary
) AS item
WHERE c.id = $1;

-- campaign_execution_start(id)
SELECT json_build_object(
    'campaign_execution_id', id,
    'status', status,
    'results', '[]'::json,
    'summary', json_build_object(
        'total', total, 'completed', 0, 'failed', 0, 'error', 0, 'cancelled', 0, 'skipped', 0,
        'success_rate', NULL, 'duration_s', 0
    )
)::text
FROM campaign_executions
WHERE id = $1;

-- runs_on(device_ids)
-- What holds these devices, and for how long it has.
SELECT held.device_id, e.test_case_id, e.device_model,
    extract(epoch FROM now() - held.started_at)::float8 AS elapsed_s
FROM unnest($1::text[]) AS asked (device_id)
CROSS JOIN LATERAL (
    SELECT a.device_id, a.execution_id, a.started_at
    FROM execution_attempts AS a
    WHERE a.device_id = asked.device_id AND a.released_at IS NULL
    OFFSET 0
) AS held
JOIN test_executions AS e ON e.id = held.execution_id;

-- kinds_of(execution_ids)
SELECT e.id, e.test_case_id, e.device_model
FROM unnest($1::text[]) AS asked (id)
JOIN test_executions AS e ON e.id = asked.id;

-- usual_durations(test_case_ids, device_models)
-- For each pair the mean seconds that recent executions of the same test case on the same device model
-- held a device, else those of the test case on any, else those of other test cases on the device model;
-- NULL when there are none. Recent: the last 1,000 that completed and the last 1,000 that failed, so that
-- the query takes the same time however many there are; and of these the last 20 of a kind.
WITH lately AS MATERIALIZED (
    (
        SELECT id, attempt, test_case_id, device_model, completed_at
        FROM test_executions
        WHERE status = 'completed'
        ORDER BY created_at DESC, id DESC
        LIMIT 1000
    )
    UNION ALL
    (
        SELECT id, attempt, test_case_id, device_model, completed_at
        FROM test_executions
        WHERE status = 'failed'
        ORDER BY created_at DESC, id DESC
        LIMIT 1000
    )
)
SELECT asked.test_case_id, asked.device_model, usual.seconds
FROM unnest($1::text[], $2::text[]) AS asked (test_case_id, device_model)
LEFT JOIN LATERAL (
    SELECT avg(extract(epoch FROM run.completed_at - run.started_at)::float8) AS seconds
    FROM (
        SELECT lately.id, lately.attempt,
            (lately.test_case_id = asked.test_case_id)::int * 2
                + (lately.device_model = asked.device_model)::int AS likeness
        FROM lately
        WHERE lately.test_case_id = asked.test_case_id OR lately.device_model = asked.device_model
        ORDER BY likeness DESC, lately.completed_at DESC
        LIMIT 20
    ) AS alike
    JOIN execution_attempts AS run
        ON run.execution_id = alike.id AND run.attempt = alike.attempt
    GROUP BY alike.likeness
    ORDER BY alike.likeness DESC
    LIMIT 1
) AS usual ON true;
