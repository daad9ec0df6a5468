-- Devices as people see and edit them.

-- device_items(id, status, model, host_id, tag, before_at, before_id, limit, bytes)
-- One by its id, or a page: as two branches, since a plan for both would walk through all pages.
-- `bytes` as in `host_items`.
SELECT
    id, created_at, host_id,
    CASE WHEN row_number() OVER page = 1 OR sum(octet_length(item)) OVER page <= $9::int THEN item END
        AS item
FROM (
    SELECT
        devices.id,
        devices.created_at,
        devices.host_id,
        json_build_object(
            'id', devices.id,
            'name', devices.name,
            'model', devices.model,
            'host_id', devices.host_id,
            'local_id', devices.local_id,
            'capabilities', devices.capabilities,
            'tags', devices.tags,
            'properties', devices.properties,
            'status', devices.status,
            'reason', devices.reason,
            'reason_text', devices.reason_text,
            'reason_until', iso(devices.reason_until),
            'declared', devices.declared,
            'lease', (
                SELECT json_build_object('holder', holder, 'expires_at', iso(expires_at))
                FROM leases
                WHERE device_id = devices.id AND expires_at > now()
            ),
            'last_seen', iso(devices.last_seen),
            'created_at', iso(devices.created_at)
        )::text AS item
    FROM (
        (SELECT * FROM devices WHERE id = $1)
        UNION ALL
        (
            SELECT *
            FROM devices
            WHERE $1::text IS NULL
                AND ($2::text IS NULL OR status = $2)
                AND ($3::text IS NULL OR model = $3)
                AND ($4::text IS NULL OR host_id = $4)
                AND ($5::text IS NULL OR $5 = ANY (tags))
                AND (created_at, id) < (coalesce($6::timestamptz, 'infinity'), coalesce($7::text, ''))
            ORDER BY created_at DESC, id DESC
            LIMIT $8::int
        )
    ) AS devices
    ORDER BY devices.created_at DESC, devices.id DESC
) AS listed
WINDOW page AS (ORDER BY created_at DESC, id DESC ROWS UNBOUNDED PRECEDING)
ORDER BY created_at DESC, id DESC;

-- device_schema(id)
SELECT schema::text
FROM device_schemas
JOIN devices ON devices.schema_hash = device_schemas.hash
WHERE devices.id = $1;

-- add_device(id, label, model, host_id, local_id, capabilities, tags, status)
INSERT INTO devices (id, name, model, host_id, local_id, capabilities, tags, disabled, status)
VALUES (
    $1, $2, $3, $4, $5, $6, $7,
    $8::text IS NOT DISTINCT FROM 'disabled',
    CASE WHEN $4::text IS NULL OR $8 = 'disabled' THEN coalesce($8, 'offline') ELSE 'offline' END
);

-- edit_device(id, label, capabilities, tags, status)
-- What was read and sent back unchanged counts as no edit: the host may go on to declare it.
-- A status from a client is stored only where no host's actor knows the real one: of a device without
-- a host, or to disable and enable one that is idle.
UPDATE devices
SET
    name = coalesce($2::text, name),
    name_edited = name_edited OR coalesce($2 <> name, false),
    capabilities = coalesce($3::text[], capabilities),
    capabilities_edited = capabilities_edited OR coalesce($3 <> capabilities, false),
    tags = coalesce($4::text[], tags),
    disabled = CASE WHEN $5::text IS NULL THEN disabled ELSE $5 = 'disabled' END,
    status = CASE
        WHEN $5 IS NULL THEN status
        WHEN host_id IS NULL OR ($5 = 'disabled' AND status IN ('online', 'offline')) THEN $5
        WHEN $5 = 'online' AND status = 'disabled' THEN 'offline'
        ELSE status
    END
WHERE id = $1
RETURNING host_id;

-- edit_model(id, model)
UPDATE devices
SET model = $2
WHERE id = $1 AND NOT declared AND $2::text IS NOT NULL;

-- drop_device(id)
DELETE FROM devices
WHERE id = $1
    AND NOT declared
    AND status NOT IN ('busy', 'leased')
    AND NOT EXISTS (
        SELECT
        FROM execution_attempts
        WHERE execution_attempts.device_id = devices.id
            AND execution_attempts.released_at IS NULL
    )
RETURNING id;

-- device_host(id)
SELECT host_id
FROM devices
WHERE id = $1;

-- store_lease(id, device_id, holder, ttl_s)
-- The host's actor has granted the lease already. The condition holds back a statement that arrives
-- late, when the device has been leased to another holder since.
INSERT INTO leases (id, device_id, holder, expires_at)
VALUES ($1, $2, $3, now() + make_interval(secs => $4::float8))
ON CONFLICT (device_id) DO UPDATE
SET
    id = excluded.id,
    holder = excluded.holder,
    expires_at = excluded.expires_at,
    created_at = CASE WHEN leases.id = excluded.id THEN leases.created_at ELSE now() END
WHERE leases.holder = excluded.holder OR leases.expires_at <= now()
RETURNING id, iso(expires_at) AS expires_at;

-- lease_of(device_id)
SELECT id, holder, extract(epoch FROM expires_at - now())::float8 AS seconds
FROM leases
WHERE device_id = $1 AND expires_at > now();

-- end_lease(id)
DELETE FROM leases
WHERE id = $1;

-- drop_old_leases()
DELETE FROM leases
WHERE expires_at < now() - interval '1 minute';
