-- A step may have pictures beside its screenshot: one of each action or block, and those that a
-- verification compared. Their files lie beside the screenshot's, numbered.
ALTER TABLE execution_steps
    ADD COLUMN pictures jsonb,
    ADD CONSTRAINT execution_steps_pictures CHECK (
        pictures IS NULL OR screenshot IS NOT NULL);
COMMENT ON COLUMN execution_steps.pictures IS
    'those beside the screenshot, as [{"number", "caption"}] in their order; NULL: none';
