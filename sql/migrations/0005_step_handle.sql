-- What a host calls a try that it began, when it can be asked for its end later.
ALTER TABLE execution_steps ADD COLUMN handle text;
