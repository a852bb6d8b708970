-- Imported material of RSA, ECC and HMAC keys. It has no algorithm, and the fingerprint of a pair has 32 bytes.
CREATE TABLE imported_material_of_keys (
    material_id BLOB NOT NULL PRIMARY KEY CHECK (length(material_id) = 16),
    key_id TEXT NOT NULL REFERENCES key ON DELETE CASCADE,
    algorithm INTEGER,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) IN (16, 32)),
    description TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('CURRENT', 'NON_CURRENT', 'PENDING_ROTATION')),
    imported_at INTEGER NOT NULL,
    rotated_at INTEGER CHECK (rotated_at IS NULL OR state <> 'PENDING_ROTATION'),
    valid_to INTEGER,
    UNIQUE (key_id, fingerprint)
) STRICT, WITHOUT ROWID;
INSERT INTO imported_material_of_keys
    (material_id, key_id, algorithm, fingerprint, description, state, imported_at, rotated_at, valid_to)
SELECT material_id, key_id, algorithm, fingerprint, description, state, imported_at, rotated_at, valid_to
FROM imported_material;
DROP TABLE imported_material;
ALTER TABLE imported_material_of_keys RENAME TO imported_material;
CREATE UNIQUE INDEX imported_material_current ON imported_material (key_id) WHERE state = 'CURRENT';
CREATE UNIQUE INDEX imported_material_pending ON imported_material (key_id) WHERE state = 'PENDING_ROTATION';
CREATE INDEX imported_material_expiry ON imported_material (valid_to) WHERE valid_to IS NOT NULL;
