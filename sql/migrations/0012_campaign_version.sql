-- Who changes a campaign may say which version he read, as with test cases.
ALTER TABLE campaigns ADD COLUMN version integer NOT NULL DEFAULT 1;
