-- How a device fares: infrastructure errors in a row, the last of them, and until when it is held back.
ALTER TABLE devices
    ADD COLUMN infra_errors int NOT NULL DEFAULT 0,
    ADD COLUMN last_error text,
    ADD COLUMN held_until timestamptz;
-- A host all of whose devices are held back, and one that another took the place of, say so.
ALTER TABLE hosts
    DROP CONSTRAINT hosts_reason,
    ADD CONSTRAINT hosts_reason CHECK (
        reason IN ('probes', 'flapping', 'broken', 'credential', 'errors', 'replaced'));
