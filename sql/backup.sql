-- What a backup and a restore ask of PostgreSQL's catalogues.

-- has_schema()
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- schema_names()
SELECT name
FROM schema_migrations
ORDER BY name;

-- columns_of(tables)
-- Generated columns are left out: PostgreSQL computes them again.
SELECT t.name AS table_name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM unnest($1::text[]) AS t (name)
JOIN pg_attribute a ON a.attrelid = to_regclass(t.name)
WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY t.name;

-- references_of(tables)
SELECT t.name AS table_name, r.name AS referenced
FROM unnest($1::text[]) AS t (name)
JOIN pg_constraint c ON c.conrelid = to_regclass(t.name) AND c.contype = 'f'
JOIN unnest($1::text[]) AS r (name) ON c.confrelid = to_regclass(r.name)
WHERE r.name <> t.name;

-- lock_instance()
-- A server that starts waits for this lock before it claims the database.
LOCK TABLE server_instance IN EXCLUSIVE MODE;

-- a_server_lives()
SELECT EXISTS (
    SELECT 1
    FROM server_instance
    WHERE expires_at > now()
);

-- sealed_of_hosts()
SELECT id, sealed_secret, sealed_api_key
FROM hosts
WHERE sealed_secret IS NOT NULL OR sealed_api_key IS NOT NULL
ORDER BY id;

-- sealed_secrets()
SELECT name, sealed_value
FROM secrets
ORDER BY name;
