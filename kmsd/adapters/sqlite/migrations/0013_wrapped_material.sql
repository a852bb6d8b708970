-- Key material that is wrapped under a domain key of the token, not an object in it (docs/custody.md).
-- Its row in token_object has the custody 'wrapped': status and message count mean the same for both.
ALTER TABLE token_object ADD COLUMN custody TEXT NOT NULL DEFAULT 'object' CHECK (custody IN ('object', 'wrapped'));
-- Reconcile, backups and metrics read the rows of objects only.
CREATE INDEX token_object_objects ON token_object (created_at) WHERE custody = 'object';

-- Number of keys in each state, for each scrape of the metrics.
CREATE TABLE key_state_count (
    state TEXT NOT NULL PRIMARY KEY,
    keys INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO key_state_count (state, keys) SELECT state, count(*) FROM key GROUP BY state;
CREATE TRIGGER key_state_counted AFTER INSERT ON key BEGIN
    INSERT INTO key_state_count (state, keys) VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET keys = keys + 1;
END;
CREATE TRIGGER key_state_recounted AFTER UPDATE OF state ON key WHEN new.state <> old.state BEGIN
    UPDATE key_state_count SET keys = keys - 1 WHERE state = old.state;
    INSERT INTO key_state_count (state, keys) VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET keys = keys + 1;
END;
CREATE TRIGGER key_state_uncounted AFTER DELETE ON key BEGIN
    UPDATE key_state_count SET keys = keys - 1 WHERE state = old.state;
END;

CREATE TABLE domain_key (
    domain_key_id BLOB NOT NULL PRIMARY KEY CHECK (length(domain_key_id) = 16),
    token TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('next', 'current', 'retiring', 'destroyed')),
    binding_key BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    missing INTEGER NOT NULL DEFAULT 0 CHECK (missing IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX domain_key_current ON domain_key (token) WHERE state = 'current';

CREATE TABLE wrapped_material (
    material_id BLOB NOT NULL PRIMARY KEY REFERENCES token_object ON DELETE CASCADE,
    domain_key_id BLOB NOT NULL REFERENCES domain_key,
    mechanism INTEGER NOT NULL,
    content BLOB NOT NULL,
    mac BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX wrapped_material_domain_key ON wrapped_material (domain_key_id);

-- Number of materials under each domain key: counting a million rows for each scrape of the metrics is not cheap.
CREATE TABLE domain_key_count (
    domain_key_id BLOB NOT NULL PRIMARY KEY REFERENCES domain_key ON DELETE CASCADE,
    materials INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER wrapped_material_counted AFTER INSERT ON wrapped_material BEGIN
    INSERT INTO domain_key_count (domain_key_id, materials) VALUES (new.domain_key_id, 1)
    ON CONFLICT (domain_key_id) DO UPDATE SET materials = materials + 1;
END;
CREATE TRIGGER wrapped_material_recounted AFTER UPDATE OF domain_key_id ON wrapped_material BEGIN
    UPDATE domain_key_count SET materials = materials - 1 WHERE domain_key_id = old.domain_key_id;
    INSERT INTO domain_key_count (domain_key_id, materials) VALUES (new.domain_key_id, 1)
    ON CONFLICT (domain_key_id) DO UPDATE SET materials = materials + 1;
END;

-- Wrapped material that was deleted. A row of it that comes back, from an old copy of the database, is refused.
CREATE TABLE deleted_material (
    material_id BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TRIGGER wrapped_material_deleted AFTER DELETE ON wrapped_material BEGIN
    UPDATE domain_key_count SET materials = materials - 1 WHERE domain_key_id = old.domain_key_id;
    INSERT OR IGNORE INTO deleted_material (material_id) VALUES (old.material_id);
END;

CREATE TRIGGER change_wrapped_material_update AFTER UPDATE ON wrapped_material
    BEGIN INSERT INTO change (subject) SELECT key_id FROM material WHERE material_id = new.material_id; END;
CREATE TRIGGER change_domain_key_insert AFTER INSERT ON domain_key
    BEGIN INSERT INTO change (subject) VALUES ('domain-key'); END;
CREATE TRIGGER change_domain_key_update AFTER UPDATE ON domain_key
    BEGIN INSERT INTO change (subject) VALUES ('domain-key'); END;
CREATE TRIGGER change_domain_key_delete AFTER DELETE ON domain_key
    BEGIN INSERT INTO change (subject) VALUES ('domain-key'); END;
