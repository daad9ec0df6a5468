-- A sample stands for all probes of its minute, and means of 10 and of 60 minutes stand beside the
-- samples, in a table of their own: who looks at a day or a month reads no samples.

CREATE TABLE health_means (
    host_id text NOT NULL REFERENCES hosts ON DELETE CASCADE,
    span integer NOT NULL CONSTRAINT health_means_span CHECK (span IN (10, 60)),
    at timestamptz NOT NULL,
    ok boolean,
    probes integer NOT NULL,
    answered integer NOT NULL,
    response_ms double precision,
    cpu_percent double precision,
    memory_percent double precision,
    disk_percent double precision,
    temperature double precision,
    load_1m double precision,
    PRIMARY KEY (host_id, span, at)
);
COMMENT ON COLUMN health_means.span IS 'minutes from `at` on';
COMMENT ON COLUMN health_means.ok IS 'whether all probes were answered; NULL where there were none';
CREATE INDEX health_means_by_time ON health_means (span, at);

INSERT INTO health_means (host_id, span, at, ok, probes, answered, response_ms, cpu_percent,
    memory_percent, disk_percent, temperature, load_1m)
SELECT host_id, 60, recorded_at, ok, samples, round(samples * coalesce(ok_share, 0))::integer,
    response_ms, cpu_percent, memory_percent, disk_percent, temperature, load_1m
FROM host_health
WHERE samples IS NOT NULL
ON CONFLICT DO NOTHING;
DELETE FROM host_health
WHERE samples IS NOT NULL;

ALTER TABLE host_health
    DROP COLUMN samples,
    DROP COLUMN ok_share,
    ADD COLUMN probes integer;
COMMENT ON COLUMN host_health.probes IS
    'how many probes it stands for, all of which went as `ok` says; NULL in old rows: one';

-- The means of what was sampled from `since` to before `until`, by spans of so many minutes.
CREATE FUNCTION means_of_health(since timestamptz, until timestamptz, span integer)
RETURNS TABLE (
    host_id text, span integer, at timestamptz, ok boolean, probes integer, answered integer,
    response_ms double precision, cpu_percent double precision, memory_percent double precision,
    disk_percent double precision, temperature double precision, load_1m double precision
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        h.host_id, $3, date_bin(make_interval(mins => $3), h.recorded_at, 'epoch'), bool_and(h.ok),
        coalesce(sum(coalesce(h.probes, 1)) FILTER (WHERE h.ok IS NOT NULL), 0)::integer,
        coalesce(sum(coalesce(h.probes, 1)) FILTER (WHERE h.ok), 0)::integer,
        avg(h.response_ms), avg(h.cpu_percent), avg(h.memory_percent), avg(h.disk_percent),
        avg(h.temperature), avg(h.load_1m)
    FROM host_health h
    WHERE h.recorded_at >= $1 AND h.recorded_at < $2
    GROUP BY 1, 3
$$;

-- How finely one sees that time: samples (0), or means of so many minutes. Of a time whose samples
-- are gone there are only hours.
CREATE FUNCTION health_span(since timestamptz, until timestamptz) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN $2 - $1 > interval '2 days' THEN 60
        WHEN EXISTS (
            SELECT FROM health_means
            WHERE span = 60 AND at >= $1 AND at <= $2
                AND at < (
                    SELECT coalesce(min(recorded_at) - interval '1 hour', 'infinity')
                    FROM host_health)
        ) THEN 60
        WHEN $2 - $1 > interval '6 hours' THEN 10
        ELSE 0
    END
$$;

-- What panels read: a few rows of each host, however long the time is. What has no means yet is
-- summed up now. It is one SELECT, so that PostgreSQL plans it as a part of the query around it;
-- which span it is, is asked once, and not for each row.
CREATE FUNCTION health_over(since timestamptz, until timestamptz)
RETURNS TABLE (
    host_id text, at timestamptz, ok boolean, probes integer, answered integer,
    response_ms double precision, cpu_percent double precision, memory_percent double precision,
    disk_percent double precision, temperature double precision, load_1m double precision
)
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT
        h.host_id, h.recorded_at, h.ok, CASE WHEN h.ok IS NULL THEN 0 ELSE coalesce(h.probes, 1) END,
        CASE WHEN h.ok THEN coalesce(h.probes, 1) ELSE 0 END, h.response_ms, h.cpu_percent,
        h.memory_percent, h.disk_percent, h.temperature, h.load_1m
    FROM host_health h
    WHERE (SELECT health_span($1, $2)) = 0 AND h.recorded_at >= $1 AND h.recorded_at <= $2
    UNION ALL
    SELECT
        m.host_id, m.at, m.ok, m.probes, m.answered, m.response_ms, m.cpu_percent,
        m.memory_percent, m.disk_percent, m.temperature, m.load_1m
    FROM health_means m
    WHERE m.span = (SELECT health_span($1, $2)) AND m.at >= $1 AND m.at <= $2
    UNION ALL
    SELECT
        n.host_id, n.at, n.ok, n.probes, n.answered, n.response_ms, n.cpu_percent,
        n.memory_percent, n.disk_percent, n.temperature, n.load_1m
    FROM (SELECT health_span($1, $2) AS span OFFSET 0) AS chosen
    LEFT JOIN LATERAL (
        SELECT m.at + make_interval(mins => m.span) AS until
        FROM health_means m
        WHERE m.span = chosen.span
        ORDER BY m.at DESC
        LIMIT 1
    ) AS known ON true
    CROSS JOIN LATERAL means_of_health(greatest($1, known.until), $2, chosen.span) AS n
    WHERE chosen.span > 0
$$;
