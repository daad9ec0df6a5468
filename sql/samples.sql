-- Samples of hosts, the means of them, and deleting old ones.

-- store_samples(host_ids, ages_s, oks, probes, responses_ms, cpus, memories, disks, temperatures, loads, device_metrics)
INSERT INTO host_health (host_id, recorded_at, ok, probes, response_ms, cpu_percent, memory_percent,
    disk_percent, temperature, load_1m, device_metrics)
SELECT h.id, now() - make_interval(secs => n.age_s), n.ok, n.probes, n.response_ms, n.cpu, n.memory,
    n.disk, n.temperature, n.load, n.device_metrics::jsonb
FROM unnest($1::text[], $2::float8[], $3::boolean[], $4::integer[], $5::float8[], $6::float8[],
        $7::float8[], $8::float8[], $9::float8[], $10::float8[], $11::text[])
    AS n (host_id, age_s, ok, probes, response_ms, cpu, memory, disk, temperature, load,
        device_metrics)
JOIN hosts h ON h.id = n.host_id
FOR KEY SHARE OF h

-- newest_hour()
SELECT max(at)
FROM health_means
WHERE span = 60

-- next_hour(since)
-- The first hour, from `since` on, that is over and has samples.
SELECT date_trunc('hour', recorded_at, 'UTC')
FROM host_health
WHERE recorded_at >= coalesce($1::timestamptz, '-infinity')
    AND recorded_at < date_trunc('hour', now(), 'UTC')
ORDER BY recorded_at
LIMIT 1

-- keep_hosts()
-- Run before means are stored: no host can be deleted until the end of the transaction.
SELECT id
FROM hosts
ORDER BY id
FOR KEY SHARE

-- store_means(hour, span, age_s)
-- Means that are computed again take in samples that came late, and replace older ones only when they
-- stand for more probes: samples may have been deleted since. Hours older than `age_s` are left out,
-- since their means would be deleted at once.
INSERT INTO health_means AS old (host_id, span, at, ok, probes, answered, response_ms, cpu_percent,
    memory_percent, disk_percent, temperature, load_1m)
SELECT host_id, span, at, ok, probes, answered, response_ms, cpu_percent, memory_percent,
    disk_percent, temperature, load_1m
FROM means_of_health($1, $1::timestamptz + interval '1 hour', $2)
WHERE $1 >= date_trunc('hour', now() - make_interval(secs => $3), 'UTC')
ON CONFLICT (host_id, span, at) DO UPDATE
SET ok = excluded.ok, probes = excluded.probes, answered = excluded.answered,
    response_ms = excluded.response_ms, cpu_percent = excluded.cpu_percent,
    memory_percent = excluded.memory_percent, disk_percent = excluded.disk_percent,
    temperature = excluded.temperature, load_1m = excluded.load_1m
WHERE excluded.probes > old.probes

-- drop_samples(age_s, limit)
-- Whole hours, so that means are never computed from the rest of an hour. Rows that are locked are
-- skipped: they are being deleted with their host.
WITH gone AS (
    DELETE FROM host_health
    WHERE ctid = ANY (ARRAY (
        SELECT ctid
        FROM host_health
        WHERE recorded_at < date_trunc('hour', now() - make_interval(secs => $1), 'UTC')
        ORDER BY recorded_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
SELECT count(*)
FROM gone

-- drop_means(span, age_s, limit)
WITH gone AS (
    DELETE FROM health_means
    WHERE ctid = ANY (ARRAY (
        SELECT ctid
        FROM health_means
        WHERE span = $1 AND at < date_trunc('hour', now() - make_interval(secs => $2), 'UTC')
        ORDER BY at
        LIMIT $3
        FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
SELECT count(*)
FROM gone

-- count_hours()
-- How many hours are over and have no means yet.
SELECT count(DISTINCT date_trunc('hour', recorded_at, 'UTC'))
FROM host_health
WHERE recorded_at < date_trunc('hour', now(), 'UTC')
    AND recorded_at >= coalesce((
        SELECT max(at) + interval '1 hour'
        FROM health_means
        WHERE span = 60), '-infinity')

-- count_old_samples(age_s)
SELECT count(*)
FROM host_health
WHERE recorded_at < date_trunc('hour', now() - make_interval(secs => $1), 'UTC')

-- count_old_means(span, age_s)
SELECT count(*)
FROM health_means
WHERE span = $1 AND at < date_trunc('hour', now() - make_interval(secs => $2), 'UTC')
