-- VirtualPyTest hosts: where people find them, what their devices can do, their own tokens.

ALTER TABLE hosts ADD COLUMN page_url text;

-- What a device's actions and verifications look like: tens of kilobytes, mostly the same for all
-- devices of a model, so each is stored once under its SHA-256.
CREATE TABLE device_schemas (
    hash bytea PRIMARY KEY,
    schema jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE devices ADD COLUMN schema_hash bytea CONSTRAINT devices_schema REFERENCES device_schemas;
CREATE INDEX devices_of_schema ON devices (schema_hash) WHERE schema_hash IS NOT NULL;

ALTER TABLE host_health ADD COLUMN device_metrics jsonb;

-- Only the SHA-256 of a token is kept. A host may get its token before it registers.
CREATE TABLE host_tokens (
    hash bytea PRIMARY KEY,
    host_id text NOT NULL CONSTRAINT host_tokens_host_form CHECK (host_id ~ '^[A-Za-z0-9._-]{1,64}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX host_tokens_of_host ON host_tokens (host_id, created_at);
