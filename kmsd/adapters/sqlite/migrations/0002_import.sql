-- Import: wrapping keys, imported material, and objects in a second token.

-- Token that holds the object, and liveness lock of the process that wrote the row (kmsd/adapters/sqlite/
-- process_liveness.py; NULL: an older release).
ALTER TABLE token_object ADD COLUMN token TEXT NOT NULL DEFAULT 'main' CHECK (token IN ('main', 'import'));
ALTER TABLE token_object ADD COLUMN maker INTEGER;

-- RSA pairs in a token: in stock (key_id IS NULL), or assigned to one key until expires_at.
CREATE TABLE wrapping_key (
    object_id BLOB NOT NULL PRIMARY KEY REFERENCES token_object,
    bits INTEGER NOT NULL,
    public_key BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    key_id TEXT,
    expires_at INTEGER CHECK ((expires_at IS NULL) = (key_id IS NULL)),
    failures INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Material that was first imported into a key. The row outlives deletion and expiry of the material.
CREATE TABLE imported_material (
    key_id TEXT NOT NULL PRIMARY KEY REFERENCES key ON DELETE CASCADE,
    material_id BLOB NOT NULL UNIQUE CHECK (length(material_id) = 16),
    algorithm INTEGER NOT NULL,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 16),
    description TEXT NOT NULL
) STRICT, WITHOUT ROWID;
