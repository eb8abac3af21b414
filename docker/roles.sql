-- Creates the service's role, which may read and write rows, and nothing else. Run it as the role
-- that migrates: the service may also use the tables that this role creates later.
--
-- With docker/compose.production.yml, the service `roles` runs it at each start. Elsewhere run it by
-- hand, once, and again after a change of a password:
--   docker compose … up roles
--   SERVICE_PASSWORD_FILE=service_password psql postgresql://items@host/items --file docker/roles.sql

\set ON_ERROR_STOP on
\set service_password `cat "${SERVICE_PASSWORD_FILE:-/run/secrets/service_password}"`
\set migrator_password `cat /run/secrets/migrator_password 2>/dev/null`

BEGIN;

SELECT 'CREATE ROLE items_service LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'items_service') \gexec

-- A role without a password file keeps its password.
SELECT format('ALTER ROLE %I PASSWORD %L', role, password)
FROM (VALUES ('items_service', :'service_password'), (current_user, :'migrator_password'))
    AS given (role, password)
WHERE password <> '' \gexec

-- PostgreSQL lets everyone create temporary tables and, up to version 14, tables in `public`.
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

GRANT CONNECT ON DATABASE :"DBNAME" TO items_service;
GRANT USAGE ON SCHEMA public TO items_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO items_service;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO items_service;

ALTER DEFAULT PRIVILEGES IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO items_service;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO items_service;

COMMIT;
