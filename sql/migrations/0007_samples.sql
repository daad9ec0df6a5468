-- Samples are thinned by age: a row that stands for an hour says how many probes it has in it.

ALTER TABLE host_health
    ADD COLUMN samples integer,
    ADD COLUMN ok_share double precision;
COMMENT ON COLUMN host_health.samples IS
    'how many probes an hourly row has in it; NULL where the row is a sample itself';
COMMENT ON COLUMN host_health.ok_share IS 'which share of these was answered, 0 to 1';
CREATE INDEX host_health_by_time ON host_health (recorded_at);
