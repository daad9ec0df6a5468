-- An entry of the audit may stand for more refused requests of a user than are worth a row each.
ALTER TABLE audit ADD COLUMN count integer NOT NULL DEFAULT 1;
