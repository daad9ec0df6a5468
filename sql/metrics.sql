-- Figures of executions, and of the lab as it is now.

-- success_rate(days)
-- The success rate leaves infrastructure errors out: they say nothing about the product under test.
SELECT
    count(*) AS total,
    count(*) FILTER (WHERE status = 'completed') AS completed,
    count(*) FILTER (WHERE status = 'failed') AS failed,
    count(*) FILTER (WHERE status = 'error') AS error,
    round(
        100.0 * count(*) FILTER (WHERE status = 'completed')
        / nullif(count(*) FILTER (WHERE status IN ('completed', 'failed')), 0),
        2
    )::double precision AS success_rate
FROM test_executions
WHERE started_at >= now() - make_interval(days => $1);

-- success_by_day(days)
-- Days are in UTC; a day on which nothing started is left out.
SELECT coalesce(json_agg(row_to_json(counted) ORDER BY counted.day), '[]')::text AS items
FROM (
    SELECT
        to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day,
        count(*) FILTER (WHERE status = 'completed') AS completed,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'error') AS error
    FROM test_executions
    WHERE started_at >= now() - make_interval(days => $1)
    GROUP BY day
) AS counted;

-- device_metrics()
SELECT
    coalesce(
        json_agg(
            json_build_object(
                'id', devices.id,
                'name', devices.name,
                'status', devices.status,
                'test_count', coalesce(ran.test_count, 0),
                'success_rate', ran.success_rate,
                'avg_duration', ran.avg_duration
            )
            ORDER BY devices.name, devices.id
        ),
        '[]'
    )::text AS items
FROM devices
LEFT JOIN (
    SELECT
        device_id,
        count(*) AS test_count,
        round(
            100.0 * count(*) FILTER (WHERE status = 'completed')
            / nullif(count(*) FILTER (WHERE status IN ('completed', 'failed')), 0),
            2
        )::double precision AS success_rate,
        avg(extract(EPOCH FROM completed_at - started_at))::double precision AS avg_duration
    FROM test_executions
    WHERE device_id IS NOT NULL
    GROUP BY device_id
) AS ran ON ran.device_id = devices.id;

-- lab_counts()
SELECT
    (
        SELECT coalesce(json_object_agg(counted.status, counted.many), '{}')::text
        FROM (SELECT status, count(*) AS many FROM hosts GROUP BY status) AS counted
    ) AS hosts,
    (
        SELECT coalesce(json_object_agg(counted.status, counted.many), '{}')::text
        FROM (SELECT status, count(*) AS many FROM devices GROUP BY status) AS counted
    ) AS devices,
    (SELECT count(*) FROM test_executions WHERE status = 'queued') AS queue_length,
    (
        SELECT extract(EPOCH FROM now() - min(queued_at))::double precision
        FROM test_executions
        WHERE status = 'queued'
    ) AS queue_oldest_s,
    (SELECT count(*) FROM test_executions WHERE status = 'running') AS running;

-- database_version()
SELECT current_setting('server_version');

-- database_answers()
SELECT 1;
