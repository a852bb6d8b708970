-- Compatible with 16.
-- Nodes with HSMs of their own, which hold the same domain keys. The HSM of the first node has the empty name. Objects and
-- service keys of the others end in @ and the name of the HSM.
ALTER TABLE node ADD COLUMN hsm TEXT COLLATE "C" NOT NULL DEFAULT '';

-- HSMs that were last found to hold a domain key. One that none holds is missing.
CREATE TABLE domain_key_holder (
    domain_key_id BYTEA NOT NULL REFERENCES domain_key ON DELETE CASCADE,
    hsm TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (domain_key_id, hsm)
);

-- Wrapped material is a client's, or the daemon's own.
CREATE OR REPLACE FUNCTION change_wrapped() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_change((SELECT key_id FROM material WHERE material_id = NEW.material_id));
    PERFORM note_change((SELECT 'service' FROM service_key WHERE object_id = NEW.material_id));
    RETURN NULL;
END $$;

-- Public half of an audit key, for the nodes of other HSMs.
ALTER TABLE service_key ADD COLUMN public_key BYTEA;
CREATE TRIGGER change_service_key_update AFTER UPDATE ON service_key
    FOR EACH STATEMENT EXECUTE FUNCTION change_subject('service');
