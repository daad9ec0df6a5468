-- Own tokens of hosts.

-- add_host_token(hash, host_id)
INSERT INTO host_tokens (hash, host_id)
VALUES ($1, $2);

-- host_tokens()
SELECT host_id, count(*) AS tokens, max(created_at) AS newest
FROM host_tokens
GROUP BY host_id
ORDER BY host_id;

-- host_of_token(hash)
SELECT host_id
FROM host_tokens
WHERE hash = $1;

-- revoke_host_tokens(host_id)
DELETE FROM host_tokens
WHERE host_id = $1
RETURNING hash;
