-- How hosts answered probes over time: stored, thinned to hours, dropped.

-- store_samples(host_ids, ages_s, oks, responses_ms)
INSERT INTO host_health (host_id, recorded_at, ok, response_ms)
SELECT h.id, now() - make_interval(secs => n.age_s), n.ok, n.response_ms
FROM unnest($1::text[], $2::float8[], $3::boolean[], $4::float8[])
    AS n (host_id, age_s, ok, response_ms)
JOIN hosts h ON h.id = n.host_id
FOR KEY SHARE OF h

-- next_raw_hour(after, age_s)
-- The first hour that has samples to be thinned: all of it is older than that.
SELECT date_trunc('hour', recorded_at, 'UTC')
FROM host_health
WHERE samples IS NULL
    AND recorded_at >= coalesce($1::timestamptz, '-infinity')
    AND recorded_at < date_trunc('hour', now() - make_interval(secs => $2), 'UTC')
ORDER BY recorded_at
LIMIT 1

-- keep_hosts()
-- Before their samples are touched: who deletes a host locks it first and its samples then.
SELECT id
FROM hosts
ORDER BY id
FOR KEY SHARE

-- thin_hour(hour)
-- Nothing is left to be thinned when it is sent again. What became of the devices is not kept.
WITH gone AS (
    DELETE FROM host_health
    WHERE samples IS NULL AND recorded_at >= $1 AND recorded_at < $1 + interval '1 hour'
    RETURNING *
), means AS (
    INSERT INTO host_health (
        host_id, recorded_at, ok, response_ms, cpu_percent, memory_percent, disk_percent,
        temperature, load_1m, samples, ok_share
    )
    SELECT host_id, $1, bool_and(ok), avg(response_ms), avg(cpu_percent), avg(memory_percent),
        avg(disk_percent), avg(temperature), avg(load_1m), count(ok), avg(ok::integer)
    FROM gone
    GROUP BY host_id
)
SELECT count(*)
FROM gone

-- drop_samples(age_s, limit)
WITH gone AS (
    DELETE FROM host_health
    WHERE ctid = ANY (ARRAY (
        SELECT ctid
        FROM host_health
        WHERE recorded_at < now() - make_interval(secs => $1)
        ORDER BY recorded_at
        LIMIT $2))
    RETURNING 1
)
SELECT count(*)
FROM gone

-- oldest_sample()
SELECT min(recorded_at)
FROM host_health

-- count_old_samples(since, raw_s, hourly_s)
-- Of a day: how many would be thinned, and how many dropped; `next_day` NULL: that was the last.
SELECT
    count(*) FILTER (
        WHERE samples IS NULL AND recorded_at >= now() - make_interval(secs => $3)
    ) AS thinned,
    count(*) FILTER (WHERE recorded_at < now() - make_interval(secs => $3)) AS dropped,
    CASE WHEN $1 < now() - interval '1 day' THEN $1 + interval '1 day' END AS next_day
FROM host_health
WHERE recorded_at >= $1::timestamptz AND recorded_at < $1 + interval '1 day'
    AND recorded_at < greatest(
        date_trunc('hour', now() - make_interval(secs => $2), 'UTC'),
        now() - make_interval(secs => $3))
