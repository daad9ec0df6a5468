-- Named secrets: whether there is one, who stored it and when. The value is never part of an answer.

-- secret_items(limit, before_at, before_id)
SELECT s.name AS id, s.created_at, row_to_json(item)::text AS item
FROM secrets AS s,
LATERAL (
    SELECT
        s.name, s.created_by, s.updated_by, iso(s.created_at) AS created_at,
        iso(s.updated_at) AS updated_at
) AS item
WHERE (s.created_at, s.name) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
ORDER BY s.created_at DESC, s.name DESC
LIMIT $1::int;

-- secret_item(name)
SELECT row_to_json(item)::text
FROM secrets AS s,
LATERAL (
    SELECT
        s.name, s.created_by, s.updated_by, iso(s.created_at) AS created_at,
        iso(s.updated_at) AS updated_at
) AS item
WHERE s.name = $1;

-- put_secret(name, sealed_value, user_id)
INSERT INTO secrets (name, sealed_value, created_by, updated_by)
VALUES ($1, $2, $3, $3)
ON CONFLICT (name) DO UPDATE
SET sealed_value = excluded.sealed_value, updated_by = excluded.updated_by, updated_at = now();

-- delete_secret(name)
DELETE FROM secrets
WHERE name = $1
RETURNING name;

-- secrets_named(names)
SELECT name, sealed_value
FROM secrets
WHERE name = ANY ($1::text[]);
