-- Nodes with HSMs of their own, which hold the same domain keys; SQLite has one. See kmsd/adapters/postgres/migrations.
ALTER TABLE node ADD COLUMN hsm TEXT NOT NULL DEFAULT '';

-- HSMs that were last found to hold a domain key. One that none holds is missing.
CREATE TABLE domain_key_holder (
    domain_key_id BLOB NOT NULL REFERENCES domain_key ON DELETE CASCADE,
    hsm TEXT NOT NULL,
    PRIMARY KEY (domain_key_id, hsm)
) STRICT, WITHOUT ROWID;

-- Wrapped material is a client's, or the daemon's own.
CREATE TRIGGER change_wrapped_service_key AFTER UPDATE ON wrapped_material
    BEGIN INSERT INTO change (subject) SELECT 'service' FROM service_key WHERE object_id = new.material_id; END;

-- Public half of an audit key, for the nodes of other HSMs.
ALTER TABLE service_key ADD COLUMN public_key BLOB;
CREATE TRIGGER change_service_key_update AFTER UPDATE ON service_key
    BEGIN INSERT INTO change (subject) VALUES ('service'); END;
