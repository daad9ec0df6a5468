-- Tokens that can be revoked, of users and of hosts, in one place; and who wrote what.

-- A user's token is signed and names its row, so nothing of it is kept. Of a host's own token only
-- the SHA-256 is kept; a host may get its token before it registers.
CREATE TABLE tokens (
    id text PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL CONSTRAINT tokens_role CHECK (role IN ('viewer', 'operator', 'admin', 'host')),
    host_id text CONSTRAINT tokens_host_form CHECK (host_id ~ '^[A-Za-z0-9._-]{1,64}$'),
    hash bytea UNIQUE,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT tokens_of_hosts CHECK
        ((role = 'host') = (host_id IS NOT NULL) AND (role = 'host') = (hash IS NOT NULL))
);
CREATE INDEX tokens_newest ON tokens (created_at DESC, id DESC);
CREATE INDEX tokens_of_host ON tokens (host_id, created_at) WHERE host_id IS NOT NULL;

INSERT INTO tokens (id, name, role, host_id, hash, created_by, created_at)
SELECT 'tok_' || encode(substr(hash, 1, 8), 'hex'), host_id, 'host', host_id, hash, 'vpt host-token',
    created_at
FROM host_tokens;
DROP TABLE host_tokens;

-- Not of the requests that only read, nor of what hosts say of themselves.
CREATE TABLE audit (
    id text PRIMARY KEY,
    at timestamptz NOT NULL,
    user_id text NOT NULL,
    role text NOT NULL,
    token_id text,
    method text NOT NULL,
    route text NOT NULL,
    path text NOT NULL,
    status integer NOT NULL,
    peer text NOT NULL,
    request_id text NOT NULL
);
CREATE INDEX audit_newest ON audit (at DESC, id DESC);
CREATE INDEX audit_of_user ON audit (user_id, at DESC, id DESC);
