-- Compatible with 17.
-- Indexes for databases with many rows. `IF NOT EXISTS`: they are built before (kmsd/adapters/postgres/indexes.py).

-- The planner knows averages, and most keys have few grants: it took the index of pages, in the order that was asked
-- for, to look for one grantee, and so read all grants of a key that has thousands. This index is usable only by a
-- statement that says `grant_id > ''`, which holds for all of them.
CREATE INDEX IF NOT EXISTS grant_page ON grant_ (key_id, grant_id) WHERE grant_id > '';
DROP INDEX grant_key;

-- Material under one domain key, by its id. Without it, finding the last of those that are to be rewrapped reads all.
CREATE INDEX IF NOT EXISTS wrapped_material_under ON wrapped_material (domain_key_id, material_id);
DROP INDEX wrapped_material_domain_key;

-- Enabled keys alone: those that are disabled stay due, and the job would pass over all of them every 15 seconds.
CREATE INDEX IF NOT EXISTS key_rotation_due ON key (next_rotation_at) WHERE next_rotation_at IS NOT NULL AND state = 'Enabled';
DROP INDEX key_rotation;
