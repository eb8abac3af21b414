-- The insert of drive.lua for pgbench. It returns all columns, as the service does.
\set number random(1, 1000000)
\set cents random(1, 100000)
INSERT INTO items (name, description, price, is_active)
VALUES ('Bench item ' || :number, 'Made by the benchmark', :cents / 100.0, true)
RETURNING id, name, description, price, is_active, version, created_at, updated_at;
