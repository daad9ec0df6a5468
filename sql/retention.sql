-- Deleting what is old: of an execution first the screenshots, then the steps, then all of it. Nothing
-- is deleted of what is pinned or not final; each statement checks it again, since an execution may be
-- pinned in between.

-- take_pruning(id, ttl_s)
INSERT INTO pruner AS p (id, expires_at)
VALUES ($1, now() + make_interval(secs => $2))
ON CONFLICT (only_one) DO UPDATE
SET id = excluded.id, expires_at = excluded.expires_at
WHERE p.id = $1 OR p.expires_at <= now()
RETURNING id

-- pruning_holders()
-- A session of who prunes: the lock's id begins with the name of its sessions.
SELECT a.pid, a.application_name, a.usename, a.client_addr, a.backend_start
FROM pruner p
JOIN pg_stat_activity a ON a.application_name = split_part(p.id, '/', 1)
ORDER BY a.backend_start, a.pid
LIMIT 1

-- leave_pruning(id, finished)
UPDATE pruner
SET expires_at = now(), finished_at = CASE WHEN $2 THEN now() ELSE finished_at END
WHERE id = $1

-- pruned_ago()
-- Seconds since the last complete round; no row or NULL when there was none.
SELECT extract(epoch FROM now() - finished_at)::float8
FROM pruner

-- old_executions(pruned, age_s, after_at, after_id, limit)
-- The oldest first. `steps` is the most rows that it can have in execution_steps.
SELECT id, completed_at, cardinality(actions) * attempt AS steps
FROM test_executions
WHERE pruned = $1 AND NOT pinned AND completed_at IS NOT NULL
    AND completed_at < now() - make_interval(secs => $2)
    AND (completed_at, id) > (coalesce($3::timestamptz, '-infinity'), $4::text)
ORDER BY completed_at, id
LIMIT $5::int

-- unlink_screenshots(ids)
WITH marked AS (
    UPDATE test_executions
    SET pruned = 'screenshots'
    WHERE id = ANY ($1::text[]) AND pruned = 'nothing' AND NOT pinned
    RETURNING id
), unlinked AS (
    UPDATE execution_steps s
    SET screenshot = NULL, pictures = NULL
    FROM marked
    WHERE s.execution_id = marked.id AND s.screenshot IS NOT NULL
    RETURNING 1
), noted AS (
    INSERT INTO screenshots_to_remove (execution_id)
    SELECT id
    FROM marked
    ON CONFLICT DO NOTHING
)
SELECT coalesce((SELECT array_agg(id) FROM marked), '{}') AS ids,
    (SELECT count(*) FROM unlinked) AS screenshots

-- screenshots_to_remove(after_id, limit)
SELECT execution_id
FROM screenshots_to_remove
WHERE execution_id > $1
ORDER BY execution_id
LIMIT $2

-- screenshots_removed(ids)
DELETE FROM screenshots_to_remove
WHERE execution_id = ANY ($1::text[])

-- delete_steps(ids)
WITH marked AS (
    UPDATE test_executions
    SET pruned = 'steps'
    WHERE id = ANY ($1::text[]) AND pruned = 'screenshots' AND NOT pinned
    RETURNING id
), gone AS (
    DELETE FROM execution_steps s
    USING marked
    WHERE s.execution_id = marked.id
    RETURNING 1
)
SELECT count(*)
FROM gone

-- delete_executions(ids)
-- Executions of campaigns are deleted with their campaign execution. One whose attempt still holds a
-- device is kept.
WITH gone AS (
    DELETE FROM test_executions e
    WHERE id = ANY ($1::text[]) AND pruned = 'steps' AND NOT pinned AND campaign_execution_id IS NULL
        AND NOT EXISTS (
            SELECT FROM execution_attempts a
            WHERE a.execution_id = e.id AND a.released_at IS NULL)
    RETURNING 1
)
SELECT count(*)
FROM gone

-- old_campaigns(age_s, after_at, after_id, limit)
-- A campaign execution with a pinned execution is kept as a whole.
SELECT id, completed_at
FROM campaign_executions c
WHERE completed_at < now() - make_interval(secs => $1)
    AND (completed_at, id) > (coalesce($2::timestamptz, '-infinity'), $3::text)
    AND NOT EXISTS (SELECT FROM test_executions e WHERE e.campaign_execution_id = c.id AND e.pinned)
ORDER BY completed_at, id
LIMIT $4::int

-- lock_executions_of(campaign_execution_id)
-- False when one of them must be kept; NULL when there are none.
SELECT bool_and(of_it.may_go AND NOT EXISTS (
    SELECT FROM execution_attempts a
    WHERE a.execution_id = of_it.id AND a.released_at IS NULL))
FROM (
    SELECT id, pruned = 'steps' AND NOT pinned AS may_go
    FROM test_executions
    WHERE campaign_execution_id = $1
    ORDER BY id
    FOR UPDATE
) AS of_it

-- delete_campaign_execution(id)
WITH results AS (
    DELETE FROM campaign_results
    WHERE campaign_execution_id = $1
), campaign AS (
    DELETE FROM campaign_executions
    WHERE id = $1
), gone AS (
    DELETE FROM test_executions
    WHERE campaign_execution_id = $1
    RETURNING 1
)
SELECT count(*)
FROM gone

-- count_screenshots(ids)
SELECT count(screenshot)
FROM execution_steps
WHERE execution_id = ANY ($1::text[])

-- count_steps(ids)
SELECT count(*)
FROM execution_steps
WHERE execution_id = ANY ($1::text[])

-- count_executions(ids)
-- How many of these `delete_executions` would delete once their steps are deleted.
SELECT count(*)
FROM test_executions e
WHERE id = ANY ($1::text[]) AND campaign_execution_id IS NULL
    AND NOT EXISTS (
        SELECT FROM execution_attempts a
        WHERE a.execution_id = e.id AND a.released_at IS NULL)

-- count_executions_of(campaign_execution_id)
-- How many would be deleted with it; NULL when one of them must be kept.
SELECT CASE WHEN coalesce(bool_and(completed_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM execution_attempts a
    WHERE a.execution_id = e.id AND a.released_at IS NULL)), true) THEN count(*) END
FROM test_executions e
WHERE campaign_execution_id = $1
