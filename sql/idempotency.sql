-- Idempotency-Keys of requests that started something; they are valid for 24 hours.

-- known_request(user_id, method, path, key)
SELECT execution_id, body_hash
FROM idempotency_keys
WHERE user_id = $1 AND method = $2 AND path = $3 AND key = $4
    AND created_at > now() - interval '24 hours';

-- remember_request(user_id, method, path, key, body_hash, execution_id)
-- Replaces a key that is no longer valid. A valid one stays as it is, and no row is returned.
INSERT INTO idempotency_keys AS known (user_id, method, path, key, body_hash, execution_id)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (user_id, method, path, key) DO UPDATE
SET body_hash = excluded.body_hash, execution_id = excluded.execution_id, created_at = now()
WHERE known.created_at <= now() - interval '24 hours'
RETURNING execution_id;

-- forget_requests()
-- 5,000 at a time, so that the statement ends within its time limit.
WITH gone AS (
    DELETE FROM idempotency_keys
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM idempotency_keys
        WHERE created_at <= now() - interval '24 hours'
        ORDER BY created_at
        LIMIT 5000
    ))
    RETURNING 1
)
SELECT count(*)
FROM gone;

-- count_forgotten_requests()
SELECT count(*)
FROM idempotency_keys
WHERE created_at <= now() - interval '24 hours';
