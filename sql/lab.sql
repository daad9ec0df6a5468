-- What the actors load and store: hosts, devices, and the claim of the server on the database.

-- lab_hosts()
SELECT id, host_url, dialect, credential, capabilities, idempotency, cancel, sealed_secret,
    sealed_api_key, draining, status, reason, reason_text, trouble_kind, trouble_text, instance_id,
    named, registered_at, last_seen,
    coalesce(reason = 'flapping' AND reason_until > now(), false) AS paused, credential_until,
    credential_ended(id, credential, credential_until) AS credential_ended
FROM hosts
ORDER BY id

-- lab_host(id)
SELECT id, host_url, dialect, credential, capabilities, idempotency, cancel, sealed_secret,
    sealed_api_key, draining, status, reason, reason_text, trouble_kind, trouble_text, instance_id,
    named, registered_at, last_seen,
    coalesce(reason = 'flapping' AND reason_until > now(), false) AS paused, credential_until,
    credential_ended(id, credential, credential_until) AS credential_ended
FROM hosts
WHERE id = $1

-- lab_devices(host_ids)
SELECT host_id, id, local_id, name, model, capabilities, declared, disabled, reason, reason_text,
    infra_errors, last_error, extract(epoch FROM held_until - now())::float8 AS held_s
FROM devices
WHERE host_id = ANY ($1::text[]) AND NOT withdrawn
ORDER BY id

-- lab_leases(host_ids)
SELECT d.host_id, l.id, l.device_id, l.holder, extract(epoch FROM l.expires_at - now())::float8 AS seconds
FROM leases l
JOIN devices d ON d.id = l.device_id
WHERE d.host_id = ANY ($1::text[]) AND l.expires_at > now()

-- lab_attempts(host_ids)
SELECT a.host_id, a.execution_id, a.device_id, a.attempt, a.status, a.error_kind, a.seq AS first_seq,
    extract(epoch FROM now() - a.started_at)::float8 AS elapsed_s,
    e.test_case_id, e.steps, e.device_model, e.timeout_s, e.infra_failures, e.test_failures,
    e.test_retries, e.requested_by, e.campaign_execution_id, e.secret_steps, e.sealed_values,
    e.cancel_requested_at IS NOT NULL AS cancelled,
    s.step, s.tries, s.handle, s.status AS step_status,
    extract(epoch FROM now() - s.started_at)::float8 AS step_age_s,
    coalesce(p.seq, a.seq) AS seq, coalesce(p.failed, false) AS failed
FROM execution_attempts a
JOIN test_executions e ON e.id = a.execution_id
LEFT JOIN LATERAL (
    SELECT step, tries, handle, status, started_at
    FROM execution_steps
    WHERE execution_id = a.execution_id AND attempt = a.attempt
    ORDER BY step DESC
    LIMIT 1
) s ON true
LEFT JOIN LATERAL (
    SELECT max(seq) AS seq, bool_or(status = 'failed') AS failed
    FROM execution_steps
    WHERE execution_id = a.execution_id AND attempt = a.attempt
) p ON true
WHERE a.host_id = ANY ($1::text[]) AND a.released_at IS NULL

-- upsert_host(id, host_url, old_url, dialect, credential, capabilities, hardware, idempotency, cancel, sealed_secret, old_credential, old_dialect, page_url, instance_id, named)
-- `old_url` NULL: there was no such host, so one that appeared meanwhile stays as it is.
INSERT INTO hosts AS h (
    id, host_url, dialect, credential, capabilities, hardware, idempotency, cancel, sealed_secret,
    page_url, instance_id, named, last_seen
)
VALUES ($1, $2, $4, $5, $6, $7, $8, $9, $10, $13, $14, $15, now())
ON CONFLICT (id) DO UPDATE
SET host_url = excluded.host_url, dialect = excluded.dialect, credential = excluded.credential,
    capabilities = excluded.capabilities, hardware = excluded.hardware,
    idempotency = excluded.idempotency, cancel = excluded.cancel, page_url = excluded.page_url,
    instance_id = excluded.instance_id, named = excluded.named,
    sealed_secret = excluded.sealed_secret, last_seen = now(), registered_at = now(),
    status = CASE WHEN h.status = 'offline' THEN 'suspect' ELSE h.status END
WHERE h.host_url = $3 AND h.credential = $11 AND h.dialect = $12
RETURNING id

-- replace_hosts(host_url, id, text)
-- A URL is one host's: those that registered with it before are offline until they register anew.
UPDATE hosts
SET status = 'offline', reason = 'replaced', reason_text = $3, reason_until = NULL,
    trouble_kind = NULL, trouble_text = NULL, trouble_since = NULL
WHERE host_url = $1 AND id <> $2 AND status <> 'offline'
RETURNING id, credential

-- lock_hosts(id, host_url)
-- The host and those that it may replace, in one order for all: else two that exchanged their addresses
-- and register at once could deadlock.
SELECT id, sealed_secret
FROM hosts
WHERE id = $1 OR host_url = $2
ORDER BY id
FOR UPDATE

-- store_credential_until(id, until_s)
UPDATE hosts
SET credential_until = to_timestamp($2::float8)
WHERE id = $1 AND credential_until IS DISTINCT FROM to_timestamp($2)

-- renew_credential(id, until_s)
-- Of a host that joined with its own credential; what a weaker one says changes nothing.
UPDATE hosts
SET credential_until = to_timestamp($2::float8)
WHERE id = $1 AND credential = 'own' AND credential_until IS DISTINCT FROM to_timestamp($2)

-- ended_credentials()
-- A part is enough: who is offline for this reason already is not among them the next time.
SELECT id
FROM hosts
WHERE credential = 'own'
    AND reason IS DISTINCT FROM 'credential'
    AND credential_ended(id, credential, credential_until)
ORDER BY id
LIMIT 1000

-- names_are_new(host_id, device_ids)
-- Whether the host or a device of it has no row yet; no name is given twice.
SELECT NOT EXISTS (SELECT FROM hosts WHERE id = $1)
    OR (SELECT count(*) FROM devices WHERE id = ANY ($2::text[])) < cardinality($2)

-- lock_names()
-- One at a time adds names of devices: else two could add one name at the same moment.
SELECT pg_advisory_xact_lock(hashtext('device_names'))

-- names_taken(host_id, device_ids, local_ids)
-- A name that these would share with another device, or with a host, whose name may be a device's id.
-- What has its row already stays, as a host that is registered must be able to register again.
WITH added AS (
    SELECT n.id, n.local_id
    FROM unnest($2::text[], $3::text[]) AS n (id, local_id)
    WHERE n.id NOT IN (SELECT id FROM devices WHERE id = ANY ($2))
)
SELECT d.id AS name, 'the device ' || d.id AS by
FROM added
JOIN devices AS d ON d.id = added.local_id
UNION ALL
SELECT added.id, 'the device ' || d.id
FROM added
JOIN devices AS d ON d.local_id = added.id
UNION ALL
SELECT h.id, 'the host ' || h.id
FROM added
JOIN hosts AS h ON h.id = added.local_id
WHERE h.id <> $1
UNION ALL
SELECT $1, 'the device ' || d.id
FROM devices AS d
WHERE (d.id = $1 OR d.local_id = $1)
    AND d.host_id IS DISTINCT FROM $1
    AND NOT EXISTS (SELECT FROM hosts WHERE id = $1)
LIMIT 1

-- upsert_device(id, host_id, local_id, name, model, capabilities, away, properties)
-- `away` NULL: the device is available; another reason than that stays. `properties` NULL: nothing new.
INSERT INTO devices AS d (
    id, host_id, local_id, name, model, capabilities, reason, reason_text, properties, declared
)
VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $7::text IS NOT NULL THEN 'away' END, $7::text,
    coalesce($8::jsonb, '{}'), true)
ON CONFLICT (id) DO UPDATE
SET local_id = excluded.local_id, model = excluded.model, declared = true, withdrawn = false,
    name = CASE WHEN d.name_edited THEN d.name ELSE excluded.name END,
    capabilities = CASE
        WHEN d.capabilities_edited THEN d.capabilities ELSE excluded.capabilities END,
    reason = CASE
        WHEN $7::text IS NOT NULL THEN 'away' WHEN d.reason <> 'away' THEN d.reason END,
    reason_text = CASE WHEN $7::text IS NOT NULL THEN $7 WHEN d.reason <> 'away' THEN d.reason_text END,
    reason_until = CASE WHEN $7::text IS NULL AND d.reason <> 'away' THEN d.reason_until END,
    properties = coalesce($8::jsonb, d.properties)
WHERE d.host_id = excluded.host_id

-- changed_properties(host_id, names, properties)
-- The devices, by their host's names for them, of which something else is stored.
SELECT d.id, n.name
FROM unnest($2::text[], $3::jsonb[]) AS n (name, properties)
JOIN devices AS d ON d.host_id = $1 AND coalesce(d.local_id, d.id) = n.name
WHERE NOT d.withdrawn AND d.properties <> n.properties

-- store_properties(id, properties)
UPDATE devices
SET properties = $2
WHERE id = $1

-- schemas_changed(host_id, device_ids, hashes)
SELECT EXISTS (
    SELECT
    FROM devices
    LEFT JOIN unnest($2::text[], $3::bytea[]) AS n (id, hash) USING (id)
    WHERE host_id = $1 AND schema_hash IS DISTINCT FROM n.hash)

-- lock_schemas()
-- One registration at a time adds and drops schemas: else one could drop a schema that another is
-- about to use. Not an advisory lock: each role could take that, also one that may only read.
LOCK TABLE device_schemas IN SHARE ROW EXCLUSIVE MODE

-- missing_schemas(hashes)
SELECT hash
FROM unnest($1::bytea[]) AS n (hash)
EXCEPT
SELECT hash
FROM device_schemas

-- add_schema(hash, schema)
INSERT INTO device_schemas (hash, schema)
VALUES ($1, $2)
ON CONFLICT DO NOTHING

-- name_schemas(host_id, device_ids, hashes)
UPDATE devices
SET schema_hash = (
    SELECT hash
    FROM unnest($2::text[], $3::bytea[]) AS n (id, hash)
    WHERE n.id = devices.id)
WHERE host_id = $1

-- drop_unused_schemas()
DELETE FROM device_schemas
WHERE NOT EXISTS (SELECT FROM devices WHERE schema_hash = hash)

-- withdraw_devices(host_id, kept)
UPDATE devices
SET declared = false, withdrawn = true, status = 'offline', reason = NULL, reason_text = NULL,
    reason_until = NULL
WHERE host_id = $1 AND declared AND NOT id = ANY ($2::text[])

-- drop_withdrawn(host_id, kept, bytes)
-- The oldest beyond `kept`, or beyond `bytes` of capabilities, of those that the host declares no more:
-- an item of a list has them all. What people made of a device, or wait for it with, is not lost: such
-- a one stays.
DELETE FROM devices AS d
WHERE d.host_id = $1
    AND d.id IN (
        SELECT id
        FROM (
            SELECT
                id,
                row_number() OVER newest AS place,
                sum(octet_length(capabilities::text)) OVER newest AS bytes
            FROM devices
            WHERE host_id = $1 AND withdrawn
            WINDOW newest AS (
                ORDER BY coalesce(last_seen, created_at) DESC, id ROWS UNBOUNDED PRECEDING
            )
        ) AS withdrawn
        WHERE place > $2::int OR bytes > $3::int
    )
    AND NOT (d.name_edited OR d.capabilities_edited OR d.disabled OR d.tags <> '{}')
    AND NOT EXISTS (SELECT FROM leases WHERE device_id = d.id)
    AND NOT EXISTS (SELECT FROM campaign_entries WHERE device_id = d.id)
    AND NOT EXISTS (
        SELECT FROM execution_attempts WHERE device_id = d.id AND released_at IS NULL)

-- store_statuses(host_ids, host_statuses, reasons, pauses_s, host_texts, trouble_kinds, trouble_texts, device_ids, statuses, device_reasons, device_texts, device_pauses_s)
-- Hosts are locked before their devices, as deleting a host does: else the two could deadlock. The end
-- of a reason is counted from when it began, so it changes only with what else changes.
WITH host AS (
    UPDATE hosts h
    SET status = n.status, reason = n.reason, reason_text = n.text,
        reason_until = CASE
            WHEN n.reason = 'errors' THEN (SELECT min(held_until) FROM devices WHERE host_id = h.id)
            WHEN (h.status, h.reason) IS DISTINCT FROM (n.status, n.reason)
                THEN now() + make_interval(secs => n.pause_s)
            ELSE h.reason_until END,
        trouble_kind = n.trouble_kind, trouble_text = n.trouble_text,
        trouble_since = CASE
            WHEN h.trouble_kind IS NOT DISTINCT FROM n.trouble_kind THEN h.trouble_since
            WHEN n.trouble_kind IS NOT NULL THEN now() END
    FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::text[], $6::text[], $7::text[])
        AS n (id, status, reason, pause_s, text, trouble_kind, trouble_text)
    WHERE h.id = n.id
        AND (h.status, h.reason, h.reason_text, h.trouble_kind, h.trouble_text)
            IS DISTINCT FROM (n.status, n.reason, n.text, n.trouble_kind, n.trouble_text)
    RETURNING h.id
), hosts_first AS (
    SELECT count(*)
    FROM host
)
UPDATE devices d
SET status = n.status, reason = n.reason, reason_text = n.text,
    reason_until = CASE WHEN n.reason = 'held_back' THEN d.held_until
        ELSE now() + make_interval(secs => n.pause_s) END
FROM hosts_first,
    unnest($8::text[], $9::text[], $10::text[], $11::text[], $12::float8[])
        AS n (id, status, reason, text, pause_s)
WHERE d.id = n.id
    AND (d.status, d.reason, d.reason_text) IS DISTINCT FROM (n.status, n.reason, n.text)

-- forget_errors(host_id, device_id)
-- Of one device, or (`device_id` NULL) of all of the host.
UPDATE devices
SET infra_errors = 0, last_error = NULL, held_until = NULL
WHERE host_id = $1 AND ($2::text IS NULL OR id = $2)
    AND (infra_errors > 0 OR last_error IS NOT NULL OR held_until IS NOT NULL)

-- store_seen(host_ids)
-- Hosts are locked before their devices, as deleting a host does: else the two could deadlock.
WITH host AS (
    UPDATE hosts
    SET last_seen = now()
    WHERE id = ANY ($1::text[])
    RETURNING id
), hosts_first AS (
    SELECT count(*)
    FROM host
)
UPDATE devices
SET last_seen = now()
FROM hosts_first
WHERE host_id = ANY ($1::text[]) AND NOT withdrawn

-- store_draining(host_id, draining)
UPDATE hosts
SET draining = $2
WHERE id = $1
RETURNING id

-- delete_host(id)
-- All or nothing: its devices are given out again only where the host was deleted.
WITH gone AS (
    DELETE FROM hosts
    WHERE id = $1
        AND NOT EXISTS (
            SELECT FROM execution_attempts
            WHERE host_id = $1 AND status = 'running')
    RETURNING id
), released AS (
    UPDATE execution_attempts
    SET released_at = now()
    WHERE host_id = $1 AND released_at IS NULL AND EXISTS (SELECT FROM gone)
)
SELECT id
FROM gone

-- claim_instance(id, ttl_s)
INSERT INTO server_instance AS s (id, expires_at)
VALUES ($1, now() + make_interval(secs => $2))
ON CONFLICT (only_one) DO UPDATE
SET id = excluded.id, expires_at = excluded.expires_at
WHERE s.id = $1 OR s.expires_at < now()
RETURNING id

-- renew_instance(id, ttl_s)
-- No row when the claim is gone: another server had it meanwhile and gave it up.
UPDATE server_instance
SET expires_at = now() + make_interval(secs => $2)
WHERE id = $1
RETURNING id

-- drop_instance(id)
DELETE FROM server_instance
WHERE id = $1

-- end_other_servers(name)
-- The sessions of servers whose claim ran out: `name` is the application_name of the present one's.
-- A session ends a while after it was asked to; no row when all have ended.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user
    AND application_name LIKE 'vpt server %' AND application_name <> $1

-- claim_holders()
-- The sessions of the server that has the claim.
SELECT a.pid, a.application_name, a.usename, a.client_addr, a.backend_start
FROM server_instance s
JOIN pg_stat_activity a ON a.application_name = 'vpt server ' || s.id
ORDER BY a.backend_start, a.pid
LIMIT 1

-- clear_instance()
DELETE FROM server_instance
