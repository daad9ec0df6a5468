-- What is kept of an execution: all of it while it is pinned, else less and less with age.

ALTER TABLE test_executions
    ADD COLUMN pinned boolean NOT NULL DEFAULT false,
    ADD COLUMN pruned text NOT NULL DEFAULT 'nothing' CONSTRAINT test_executions_pruned CHECK
        (pruned IN ('nothing', 'screenshots', 'steps'));
COMMENT ON COLUMN test_executions.pruned IS 'what is gone; screenshots go before steps';
CREATE INDEX test_executions_to_prune ON test_executions (pruned, completed_at)
    WHERE completed_at IS NOT NULL AND NOT pinned;
CREATE INDEX test_executions_pinned ON test_executions (campaign_execution_id) WHERE pinned;
CREATE INDEX campaign_executions_by_end ON campaign_executions (completed_at);

-- Links go before their files: whose files are still to go stands here, so that a crash in between
-- leaves none for ever.
CREATE TABLE screenshots_to_remove (execution_id text PRIMARY KEY);

-- One prunes at a time: who does, until when at the latest if he dies, and when all was done last.
CREATE TABLE pruner (
    only_one boolean PRIMARY KEY DEFAULT true CONSTRAINT pruner_only_one CHECK (only_one),
    id text NOT NULL,
    expires_at timestamptz NOT NULL,
    finished_at timestamptz
);
