-- Rows for the tables that the lab of a day leaves empty, and whatever a value may be: what COPY's
-- text escapes, nothing at all, numbers at their ends.
DELETE FROM server_instance;
INSERT INTO campaign_entries (campaign_id, position, test_case_id, parameters)
VALUES ('nightly', 1, 't1', '{"a": "tab\tline\n\\N", "b": [1.5e300, null]}');
INSERT INTO campaign_results (campaign_execution_id, position, test_case_id, request, execution_id)
VALUES ('c1', 1, 't1', '{}', 'e50');
INSERT INTO campaign_steps (campaign_execution_id, test_case_id, steps)
VALUES ('c1', 't1', '[{"a":  1}]');
INSERT INTO idempotency_keys (user_id, method, path, key, body_hash, execution_id)
VALUES ('', 'POST', '/', E'a\tb\\N\\.\r\n', '\x00ff0a5c', 'e1');
INSERT INTO secrets (name, sealed_value, created_by, updated_by) VALUES ('s', '\x00ff', 'ann', 'bob');
UPDATE test_cases SET parameters = '{"p":  {"secret": true}}' WHERE id = 't1';
INSERT INTO leases (id, device_id, holder, expires_at) VALUES ('l', 'pi-1-1', 'ann', 'infinity');
INSERT INTO device_schemas (hash, schema) VALUES ('\xdead', '{"ü": "\\u2028"}');
UPDATE devices SET schema_hash = '\xdead', capabilities = '{"a,b","c\"d","",NULL}'
WHERE id = 'pi-1-1';
INSERT INTO tokens (id, name, role, host_id, hash, created_by)
VALUES ('k', 'pi-1', 'host', 'pi-1', '\x', 'ann');
INSERT INTO audit (id, at, user_id, role, method, route, path, status, peer, request_id)
VALUES ('a', '-infinity', 'ann', 'admin', 'PUT', '/', '/', 200, '::1', 'r');
INSERT INTO grafana_page (url) VALUES ('http://x');
INSERT INTO health_means (host_id, span, at, ok, probes, answered, response_ms)
VALUES ('pi-1', 60, '2026-01-01', NULL, 0, 0, 1e-300);
INSERT INTO screenshots_to_remove (execution_id) VALUES ('e0');
UPDATE execution_steps SET output = E'\\.\n\\N\t\u00fc\U0001f600\u0001', error = ''
WHERE execution_id = 'e7';
UPDATE host_health
SET temperature = 'NaN', load_1m = 0.1::float8 + 0.2, cpu_percent = '-Infinity'
WHERE host_id = 'pi-2';
UPDATE test_cases SET steps = '[{"z": 1,   "a": "kept as it is"}]' WHERE id = 't1';
