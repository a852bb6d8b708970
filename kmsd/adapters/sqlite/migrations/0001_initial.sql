-- Instants are microseconds since 1970-01-01T00:00:00Z.

CREATE TABLE account (
    account TEXT NOT NULL PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE user (
    account TEXT NOT NULL REFERENCES account,
    name TEXT NOT NULL,
    user_id TEXT NOT NULL UNIQUE,
    arn TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE user_policy (
    account TEXT NOT NULL,
    user_name TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (account, user_name, name),
    FOREIGN KEY (account, user_name) REFERENCES user ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE user_tag (
    account TEXT NOT NULL,
    user_name TEXT NOT NULL,
    tag_key TEXT NOT NULL,
    tag_value TEXT NOT NULL,
    PRIMARY KEY (account, user_name, tag_key),
    FOREIGN KEY (account, user_name) REFERENCES user ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE access_key (
    access_key_id TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL,
    user_name TEXT NOT NULL,
    sealed_secret BLOB NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('Active', 'Inactive')),
    created_at INTEGER NOT NULL,
    FOREIGN KEY (account, user_name) REFERENCES user ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX access_key_user ON access_key (account, user_name);

CREATE TABLE role (
    account TEXT NOT NULL REFERENCES account,
    name TEXT NOT NULL,
    role_id TEXT NOT NULL UNIQUE,
    arn TEXT NOT NULL UNIQUE,
    trust_policy TEXT NOT NULL,
    max_session_seconds INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE role_policy (
    account TEXT NOT NULL,
    role_name TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (account, role_name, name),
    FOREIGN KEY (account, role_name) REFERENCES role ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE role_tag (
    account TEXT NOT NULL,
    role_name TEXT NOT NULL,
    tag_key TEXT NOT NULL,
    tag_value TEXT NOT NULL,
    PRIMARY KEY (account, role_name, tag_key),
    FOREIGN KEY (account, role_name) REFERENCES role ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Every object in the token that this daemon created, from the intent to its destruction (ids: docs/ciphertext.md).
CREATE TABLE token_object (
    object_id BLOB NOT NULL PRIMARY KEY CHECK (length(object_id) = 16),
    owner TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('creating', 'ready', 'missing', 'destroying', 'destroyed')),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX token_object_unsettled ON token_object (status) WHERE status NOT IN ('ready', 'destroyed');

CREATE TABLE service_key (
    purpose TEXT NOT NULL PRIMARY KEY,
    object_id BLOB NOT NULL UNIQUE REFERENCES token_object,
    algorithm INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE key (
    key_id TEXT NOT NULL PRIMARY KEY CHECK (length(key_id) = 36),
    account TEXT NOT NULL REFERENCES account,
    arn TEXT NOT NULL,
    description TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('AWS_KMS', 'EXTERNAL')),
    state TEXT NOT NULL CHECK (state IN ('Enabled', 'Disabled', 'PendingDeletion', 'PendingImport')),
    policy TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    current_material BLOB,
    deletion_at INTEGER CHECK ((deletion_at IS NOT NULL) = (state = 'PendingDeletion')),
    pending_window_days INTEGER,
    valid_to INTEGER,
    expiration_model TEXT,
    rotation_period_days INTEGER,
    next_rotation_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX key_account ON key (account, key_id);
CREATE INDEX key_deletion ON key (deletion_at) WHERE deletion_at IS NOT NULL;
CREATE INDEX key_expiry ON key (valid_to) WHERE valid_to IS NOT NULL;
CREATE INDEX key_rotation ON key (next_rotation_at) WHERE next_rotation_at IS NOT NULL;

-- Number of keys of each account: CreateKey needs it, and counting 100 000 rows is not cheap.
CREATE TABLE key_count (
    account TEXT NOT NULL PRIMARY KEY REFERENCES account,
    keys INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER key_counted AFTER INSERT ON key BEGIN
    INSERT INTO key_count (account, keys) VALUES (new.account, 1) ON CONFLICT (account) DO UPDATE SET keys = keys + 1;
END;
CREATE TRIGGER key_uncounted AFTER DELETE ON key BEGIN
    UPDATE key_count SET keys = keys - 1 WHERE account = old.account;
END;

CREATE TABLE material (
    material_id BLOB NOT NULL PRIMARY KEY REFERENCES token_object,
    key_id TEXT NOT NULL REFERENCES key ON DELETE CASCADE,
    algorithm INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    rotation_type TEXT CHECK (rotation_type IN ('AUTOMATIC', 'ON_DEMAND'))
) STRICT, WITHOUT ROWID;
CREATE INDEX material_key ON material (key_id);

CREATE TABLE alias (
    account TEXT NOT NULL REFERENCES account,
    name TEXT NOT NULL,
    key_id TEXT NOT NULL REFERENCES key ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_key ON alias (key_id, name);

CREATE TABLE key_tag (
    key_id TEXT NOT NULL REFERENCES key ON DELETE CASCADE,
    tag_key TEXT NOT NULL,
    tag_value TEXT NOT NULL,
    PRIMARY KEY (key_id, tag_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE grant_ (
    grant_id TEXT NOT NULL PRIMARY KEY CHECK (length(grant_id) = 64),
    key_id TEXT NOT NULL REFERENCES key ON DELETE CASCADE,
    name TEXT,
    grantee_principal TEXT NOT NULL,
    retiring_principal TEXT,
    operations TEXT NOT NULL,
    context_equals TEXT,
    context_subset TEXT,
    issuing_account TEXT NOT NULL,
    issuing_principal TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX grant_key_grantee ON grant_ (key_id, grantee_principal, grant_id);
CREATE INDEX grant_key ON grant_ (key_id, grant_id);
CREATE INDEX grant_retiring ON grant_ (retiring_principal, grant_id) WHERE retiring_principal IS NOT NULL;
CREATE INDEX grant_name ON grant_ (key_id, name) WHERE name IS NOT NULL;

-- As key_count, for CreateGrant.
CREATE TABLE grant_count (
    key_id TEXT NOT NULL PRIMARY KEY REFERENCES key ON DELETE CASCADE,
    grants INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER grant_counted AFTER INSERT ON grant_ BEGIN
    INSERT INTO grant_count (key_id, grants) VALUES (new.key_id, 1) ON CONFLICT (key_id) DO UPDATE SET grants = grants + 1;
END;
CREATE TRIGGER grant_uncounted AFTER DELETE ON grant_ BEGIN
    UPDATE grant_count SET grants = grants - 1 WHERE key_id = old.key_id;
END;

CREATE TABLE lease (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Changes that each process must invalidate in its cache (kmsd/adapters/sqlite/cached_reader.py).
-- Written by triggers, so that no statement can omit it.
CREATE TABLE change (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL
) STRICT;

CREATE TRIGGER change_key_insert AFTER INSERT ON key BEGIN INSERT INTO change (subject) VALUES (new.key_id); END;
CREATE TRIGGER change_key_update AFTER UPDATE ON key BEGIN INSERT INTO change (subject) VALUES (new.key_id); END;
CREATE TRIGGER change_key_delete AFTER DELETE ON key BEGIN INSERT INTO change (subject) VALUES (old.key_id); END;
CREATE TRIGGER change_material_insert AFTER INSERT ON material BEGIN INSERT INTO change (subject) VALUES (new.key_id); END;
CREATE TRIGGER change_material_update AFTER UPDATE ON material BEGIN INSERT INTO change (subject) VALUES (new.key_id); END;
CREATE TRIGGER change_material_delete AFTER DELETE ON material BEGIN INSERT INTO change (subject) VALUES (old.key_id); END;
CREATE TRIGGER change_object_update AFTER UPDATE ON token_object
    BEGIN INSERT INTO change (subject) SELECT key_id FROM material WHERE material_id = new.object_id; END;
-- An object being destroyed: each process invalidates the keys derived from it too.
CREATE TRIGGER change_object_doomed AFTER UPDATE ON token_object WHEN new.status = 'destroying'
    BEGIN INSERT INTO change (subject) VALUES ('object:' || lower(hex(new.object_id))); END;
CREATE TRIGGER change_alias_insert AFTER INSERT ON alias BEGIN INSERT INTO change (subject) VALUES ('alias'); END;
CREATE TRIGGER change_alias_update AFTER UPDATE ON alias BEGIN INSERT INTO change (subject) VALUES ('alias'); END;
CREATE TRIGGER change_alias_delete AFTER DELETE ON alias BEGIN INSERT INTO change (subject) VALUES ('alias'); END;
CREATE TRIGGER change_tag_insert AFTER INSERT ON key_tag BEGIN INSERT INTO change (subject) VALUES (new.key_id); END;
CREATE TRIGGER change_tag_update AFTER UPDATE ON key_tag BEGIN INSERT INTO change (subject) VALUES (new.key_id); END;
CREATE TRIGGER change_tag_delete AFTER DELETE ON key_tag BEGIN INSERT INTO change (subject) VALUES (old.key_id); END;
CREATE TRIGGER change_grant_insert AFTER INSERT ON grant_ BEGIN INSERT INTO change (subject) VALUES (new.key_id); END;
CREATE TRIGGER change_grant_update AFTER UPDATE ON grant_ BEGIN INSERT INTO change (subject) VALUES (new.key_id); END;
CREATE TRIGGER change_grant_delete AFTER DELETE ON grant_ BEGIN INSERT INTO change (subject) VALUES (old.key_id); END;
CREATE TRIGGER change_user_update AFTER UPDATE ON user BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_user_delete AFTER DELETE ON user BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_user_policy_insert AFTER INSERT ON user_policy BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_user_policy_update AFTER UPDATE ON user_policy BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_user_policy_delete AFTER DELETE ON user_policy BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_user_tag_insert AFTER INSERT ON user_tag BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_user_tag_delete AFTER DELETE ON user_tag BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_access_key_insert AFTER INSERT ON access_key BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_access_key_update AFTER UPDATE ON access_key BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_access_key_delete AFTER DELETE ON access_key BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_role_insert AFTER INSERT ON role BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_role_update AFTER UPDATE ON role BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_role_delete AFTER DELETE ON role BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_role_policy_insert AFTER INSERT ON role_policy BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_role_policy_update AFTER UPDATE ON role_policy BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_role_policy_delete AFTER DELETE ON role_policy BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_role_tag_insert AFTER INSERT ON role_tag BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_role_tag_delete AFTER DELETE ON role_tag BEGIN INSERT INTO change (subject) VALUES ('identity'); END;
CREATE TRIGGER change_service_key_insert AFTER INSERT ON service_key BEGIN INSERT INTO change (subject) VALUES ('service'); END;
-- Old rows are deleted. A process that has not read them invalidates its whole cache.
CREATE TRIGGER change_trimmed AFTER INSERT ON change WHEN new.seq % 1024 = 0
    BEGIN DELETE FROM change WHERE seq <= new.seq - 4096; END;
