-- Several imported materials of a key. The material of earlier keys is their first and current one.
CREATE TABLE imported_material_of_key (
    material_id BLOB NOT NULL PRIMARY KEY CHECK (length(material_id) = 16),
    key_id TEXT NOT NULL REFERENCES key ON DELETE CASCADE,
    algorithm INTEGER NOT NULL,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 16),
    description TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('CURRENT', 'NON_CURRENT', 'PENDING_ROTATION')),
    imported_at INTEGER NOT NULL,
    rotated_at INTEGER CHECK (rotated_at IS NULL OR state <> 'PENDING_ROTATION'),
    valid_to INTEGER,
    UNIQUE (key_id, fingerprint)
) STRICT, WITHOUT ROWID;
-- The time of the first import was not recorded: it is not before that of the key, and not after any later import.
INSERT INTO imported_material_of_key
    (material_id, key_id, algorithm, fingerprint, description, state, imported_at, valid_to)
SELECT imported.material_id, key_id, imported.algorithm, fingerprint, imported.description, 'CURRENT',
    coalesce(material.created_at, key.created_at), CASE WHEN current_material IS NULL THEN NULL ELSE valid_to END
FROM imported_material AS imported JOIN key USING (key_id) LEFT JOIN material USING (material_id, key_id);
DROP TABLE imported_material;
ALTER TABLE imported_material_of_key RENAME TO imported_material;
CREATE UNIQUE INDEX imported_material_current ON imported_material (key_id) WHERE state = 'CURRENT';
CREATE UNIQUE INDEX imported_material_pending ON imported_material (key_id) WHERE state = 'PENDING_ROTATION';
CREATE INDEX imported_material_expiry ON imported_material (valid_to) WHERE valid_to IS NOT NULL;
-- Expiry is now looked up there.
DROP INDEX key_expiry;
