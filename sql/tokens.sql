-- Tokens that can be revoked. A user's token is found by its id, a host's token by its hash.

-- insert_token(id, name, role, host_id, hash, created_by, expires_at)
INSERT INTO tokens (id, name, role, host_id, hash, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- token_items(limit, before_at, before_id, role)
SELECT t.id, t.created_at, row_to_json(item)::text AS item
FROM tokens AS t,
LATERAL (
    SELECT
        t.id, t.name, t.role, t.host_id, t.created_by, iso(t.created_at) AS created_at,
        iso(t.expires_at) AS expires_at, iso(t.last_used_at) AS last_used_at
) AS item
WHERE (t.created_at, t.id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    AND ($4::text IS NULL OR t.role = $4)
ORDER BY t.created_at DESC, t.id DESC
LIMIT $1::int;

-- token_item(id)
SELECT row_to_json(item)::text
FROM tokens AS t,
LATERAL (
    SELECT
        t.id, t.name, t.role, t.host_id, t.created_by, iso(t.created_at) AS created_at,
        iso(t.expires_at) AS expires_at, iso(t.last_used_at) AS last_used_at
) AS item
WHERE t.id = $1;

-- delete_token(id)
DELETE FROM tokens
WHERE id = $1
RETURNING hash, host_id;

-- token_lives(id)
-- Stores when the token was used, too, at most once a minute.
WITH used AS (
    UPDATE tokens
    SET last_used_at = now()
    WHERE id = $1
        AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
)
SELECT true
FROM tokens
WHERE id = $1
    AND role <> 'host'
    AND (expires_at IS NULL OR expires_at > now());

-- host_of_token(hash)
WITH used AS (
    UPDATE tokens
    SET last_used_at = now()
    WHERE hash = $1
        AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
)
SELECT host_id
FROM tokens
WHERE hash = $1
    AND (expires_at IS NULL OR expires_at > now());

-- host_tokens()
SELECT host_id, count(*) AS tokens, max(created_at) AS newest
FROM tokens
WHERE host_id IS NOT NULL
GROUP BY host_id
ORDER BY host_id;

-- revoke_host_tokens(host_id)
DELETE FROM tokens
WHERE host_id = $1
RETURNING hash;
