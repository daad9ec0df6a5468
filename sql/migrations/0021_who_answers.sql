-- Whether a host's health said its name when it registered: then it must go on saying it.
ALTER TABLE hosts
    ADD COLUMN named boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT hosts_reason,
    ADD CONSTRAINT hosts_reason
        CHECK (reason IN ('probes', 'flapping', 'broken', 'errors', 'replaced', 'credential'));
CREATE INDEX hosts_url ON hosts (host_url);
