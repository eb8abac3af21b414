-- Creates the roles, and gives them the passwords in use. `items` owns the database, and migrates it.
-- docker/roles.sql says what `items_service` may do. Compose runs both files at each start; this one
-- as the superuser, which neither role is.

\set ON_ERROR_STOP on
\set password `cat /run/secrets/migrator_password 2>/dev/null || echo "$POSTGRES_PASSWORD"`
\set service_password `cat /run/secrets/service_password 2>/dev/null || true`

BEGIN;

SELECT format('CREATE ROLE %I LOGIN', role)
FROM unnest(ARRAY['items', 'items_service']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec

SELECT format('ALTER ROLE %I PASSWORD %L', role, password)
FROM (VALUES ('items', :'password'), ('items_service', :'service_password'))
    AS given (role, password)
WHERE password <> '' \gexec

ALTER DATABASE items OWNER TO items;

-- The superuser needs no password, because it connects only over the socket.
SELECT 'ALTER ROLE postgres PASSWORD NULL'
WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'postgres') \gexec

-- PostgreSQL lets everyone connect to these databases, and create temporary tables there.
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;

COMMIT;
