-- Whether a host's health said its name when it registered: then it must go on saying it.
ALTER TABLE hosts
    ADD COLUMN named boolean NOT NULL DEFAULT false;
CREATE INDEX hosts_url ON hosts (host_url);
