-- The audit: which user wrote what, when and from where.

-- store_audit(entries)
-- `entries` is one JSON array: eleven arrays of PostgreSQL cost the server ten times as much to encode.
INSERT INTO audit
SELECT (json_populate_recordset(NULL::audit, $1::text::json)).*
ON CONFLICT (id) DO NOTHING;

-- drop_audit(age_s, limit)
WITH gone AS (
    DELETE FROM audit
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM audit
        WHERE at < now() - make_interval(secs => $1)
        ORDER BY at, id
        LIMIT $2::int
    ))
    RETURNING 1
)
SELECT count(*)
FROM gone;

-- count_old_audit(age_s)
SELECT count(*)
FROM audit
WHERE at < now() - make_interval(secs => $1);

-- audit_items(limit, before_at, before_id, user_id, method, since, until)
SELECT a.id, a.at AS created_at, row_to_json(item)::text AS item
FROM audit AS a,
LATERAL (
    SELECT
        a.id, iso(a.at) AS at, a.user_id, a.role, a.token_id, a.method, a.route, a.path, a.status,
        a.peer, a.request_id, a.count
) AS item
WHERE (a.at, a.id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    AND ($4::text IS NULL OR a.user_id = $4)
    AND ($5::text IS NULL OR a.method = $5)
    AND ($6::timestamptz IS NULL OR a.at >= $6)
    AND ($7::timestamptz IS NULL OR a.at < $7)
ORDER BY a.at DESC, a.id DESC
LIMIT $1::int;
