-- Campaigns as clients see them.

-- campaign_items(id, limit, before_at, before_id, q, bytes)
-- One by its id, or a page: as two branches, since a plan for both would walk through all pages.
-- `bytes` as in `host_items`.
SELECT
    id, created_at, version,
    CASE WHEN row_number() OVER page = 1 OR sum(octet_length(item)) OVER page <= $6::int THEN item END
        AS item
FROM (
    SELECT page.id, page.created_at, page.version, row_to_json(item)::text AS item
    FROM (
        (SELECT * FROM campaigns WHERE id = $1)
        UNION ALL
        (
            SELECT *
            FROM campaigns
            WHERE $1::text IS NULL
                AND (created_at, id) < (coalesce($3::timestamptz, 'infinity'), coalesce($4::text, ''))
                AND ($5::text IS NULL OR strpos(lower(name), lower($5)) > 0)
            ORDER BY created_at DESC, id DESC
            LIMIT $2::int
        )
    ) AS page
    CROSS JOIN LATERAL (
        SELECT
            page.id, page.name, page.description,
            (
                SELECT json_agg(row_to_json(entry) ORDER BY position)
                FROM campaign_entries
                CROSS JOIN LATERAL (SELECT test_case_id, device_id, host_id, parameters) AS entry
                WHERE campaign_id = page.id
            ) AS test_cases,
            page.stop_on_failure, page.parallelism, page.priority, page.version,
            iso(page.created_at) AS created_at, iso(page.updated_at) AS updated_at
    ) AS item
    ORDER BY page.created_at DESC, page.id DESC
) AS listed
WINDOW page AS (ORDER BY created_at DESC, id DESC ROWS UNBOUNDED PRECEDING)
ORDER BY created_at DESC, id DESC;

-- campaign_to_run(id)
SELECT name, stop_on_failure, parallelism, priority
FROM campaigns
WHERE id = $1;

-- campaign_entries_to_run(id)
SELECT test_case_id, device_id, host_id, parameters
FROM campaign_entries
WHERE campaign_id = $1
ORDER BY position;

-- insert_campaign(id, name, description, stop_on_failure, parallelism, priority)
INSERT INTO campaigns (id, name, description, stop_on_failure, parallelism, priority)
VALUES ($1, $2, $3, $4, $5, $6);

-- update_campaign(id, versions, name, description, stop_on_failure, parallelism, priority)
-- `versions`: only one of these is overwritten (from If-Match); NULL for any.
UPDATE campaigns
SET
    version = version + 1,
    updated_at = now(),
    name = $3,
    description = $4,
    stop_on_failure = $5,
    parallelism = $6,
    priority = $7
WHERE id = $1
    AND ($2::int[] IS NULL OR version = ANY ($2))
RETURNING id;

-- delete_campaign_entries(campaign_id)
DELETE FROM campaign_entries
WHERE campaign_id = $1;

-- insert_campaign_entry(campaign_id, position, test_case_id, device_id, host_id, parameters)
INSERT INTO campaign_entries (campaign_id, position, test_case_id, device_id, host_id, parameters)
VALUES ($1, $2, $3, $4, $5, $6);

-- delete_campaign(id, versions)
DELETE FROM campaigns
WHERE id = $1
    AND ($2::int[] IS NULL OR version = ANY ($2))
RETURNING id;
