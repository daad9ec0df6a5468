-- Why a device or a host is as it is, in words, and what a host says of its devices.
ALTER TABLE devices
    ADD COLUMN reason text,
    ADD COLUMN reason_text text,
    ADD COLUMN reason_until timestamptz,
    ADD COLUMN properties jsonb NOT NULL DEFAULT '{}';
ALTER TABLE hosts
    ADD COLUMN reason_text text,
    ADD COLUMN trouble_kind text,
    ADD COLUMN trouble_text text,
    ADD COLUMN trouble_since timestamptz,
    ADD COLUMN instance_id text;
