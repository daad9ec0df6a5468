-- Hosts as clients see them; the statements of the actors are in lab.sql.

-- host_items(id, status, tag, capability, before_at, before_id, limit, bytes)
-- One by its id, or a page: as two branches, since a plan for both would walk through all pages.
-- `bytes`: items after those that together have so many are NULL, so that no page is held that is
-- larger; the first one is always told, without its devices where it is larger than a page by itself
-- (1,000 devices may have 80 KB of tags each): those are listed by `device_items`.
SELECT
    id, created_at,
    CASE
        WHEN row_number() OVER page > 1 AND sum(octet_length(item)) OVER page > $8::int THEN NULL
        WHEN octet_length(item) > 8 * 1024 * 1024 - 4096 THEN (
            item::jsonb || '{"devices": [], "devices_left_out": true}'
        )::text
        ELSE item
    END AS item
FROM (
    SELECT
        hosts.id,
        hosts.created_at,
        json_build_object(
            'id', hosts.id,
            'host_name', hosts.id,
            'host_url', hosts.host_url,
            'page_url', hosts.page_url,
            'dialect', hosts.dialect,
            'status', hosts.status,
            'reason', hosts.reason,
            'reason_text', hosts.reason_text,
            'reason_until', iso(hosts.reason_until),
            'trouble', CASE
                WHEN hosts.trouble_kind IS NOT NULL THEN json_build_object(
                    'kind', hosts.trouble_kind,
                    'text', hosts.trouble_text,
                    'since', iso(hosts.trouble_since)
                )
            END,
            'capabilities', hosts.capabilities,
            'devices', (
                SELECT coalesce(json_agg(row_to_json(item) ORDER BY item.created_at, item.id), '[]')
                FROM (
                    SELECT
                        id, name, model, host_id, local_id, capabilities, tags, properties, status,
                        reason, reason_text, iso(devices.reason_until) AS reason_until, declared,
                        iso(devices.last_seen) AS last_seen,
                        iso(devices.created_at) AS created_at,
                        (
                            SELECT json_build_object('holder', holder, 'expires_at', iso(expires_at))
                            FROM leases
                            WHERE device_id = devices.id AND expires_at > now()
                        ) AS lease
                    FROM devices
                    WHERE devices.host_id = hosts.id
                ) AS item
            ),
            'tags', hosts.tags,
            'hardware', hosts.hardware,
            'protocol', json_build_object('idempotency', hosts.idempotency, 'cancel', hosts.cancel),
            'draining', hosts.draining,
            'last_seen', iso(hosts.last_seen),
            'registered_at', iso(hosts.registered_at)
        )::text AS item
    FROM (
        (SELECT * FROM hosts WHERE id = $1)
        UNION ALL
        (
            SELECT *
            FROM hosts
            WHERE $1::text IS NULL
                AND ($2::text IS NULL OR status = $2)
                AND ($3::text IS NULL OR $3 = ANY (tags))
                AND ($4::text IS NULL OR $4 = ANY (capabilities))
                AND (created_at, id) < (coalesce($5::timestamptz, 'infinity'), coalesce($6::text, ''))
            ORDER BY created_at DESC, id DESC
            LIMIT $7::int
        )
    ) AS hosts
    ORDER BY hosts.created_at DESC, hosts.id DESC
) AS listed
WINDOW page AS (ORDER BY created_at DESC, id DESC ROWS UNBOUNDED PRECEDING)
ORDER BY created_at DESC, id DESC;

-- host_exists(id)
SELECT EXISTS (SELECT FROM hosts WHERE id = $1);

-- host_page_url(id)
SELECT page_url FROM hosts WHERE id = $1;

-- edit_host(id, tags, sealed_api_key, set_api_key)
UPDATE hosts
SET
    tags = coalesce($2::text[], tags),
    sealed_api_key = CASE WHEN $4::boolean THEN $3::bytea ELSE sealed_api_key END
WHERE id = $1
RETURNING id;

-- host_url(id)
SELECT host_url
FROM hosts
WHERE id = $1;

-- host_of_handle(handle)
-- The host that gave this name to a step that is under way.
SELECT h.id, h.host_url, h.credential
FROM execution_attempts AS a
JOIN execution_steps AS s USING (execution_id, attempt)
JOIN hosts AS h ON h.id = a.host_id
WHERE a.status = 'running' AND s.handle = $1
LIMIT 1;
