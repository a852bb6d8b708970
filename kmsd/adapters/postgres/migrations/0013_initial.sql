-- The schema of version 13, as SQLite's migrations make it (kmsd/adapters/sqlite/migrations). One version number has one
-- meaning in both. Instants are microseconds since 1970-01-01T00:00:00Z. Texts are compared by their bytes, as in SQLite.

-- The number of the last transaction that wrote: exactly one row. Every transaction that writes raises it first, which
-- makes it the only writer. Whoever sees a number sees all transactions up to it. Changes up to `trimmed` are deleted.
CREATE TABLE change_seq (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL,
    trimmed BIGINT NOT NULL
) WITH (fillfactor = 10);
INSERT INTO change_seq (id, seq, trimmed) VALUES (1, 0, 0);

-- Changes that each process must invalidate in its cache (kmsd/adapters/sql/cached_reader.py). Written by triggers.
CREATE TABLE change (
    seq BIGINT NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (seq, subject)
);

-- Outcome of each transaction that wrote. A process that does not know if its commit worked inserts 'abandoned' and
-- reads what is there: whoever inserts the id first, wins.
CREATE TABLE outcome (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    what TEXT COLLATE "C" NOT NULL CHECK (what IN ('committed', 'abandoned')),
    seq BIGINT NOT NULL
);
CREATE INDEX outcome_age ON outcome (seq);

CREATE TABLE account (
    account TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);

CREATE TABLE "user" (
    account TEXT COLLATE "C" NOT NULL REFERENCES account,
    name TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL UNIQUE,
    arn TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

CREATE TABLE user_policy (
    account TEXT COLLATE "C" NOT NULL,
    user_name TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    document TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, user_name, name),
    FOREIGN KEY (account, user_name) REFERENCES "user" ON DELETE CASCADE
);

CREATE TABLE user_tag (
    account TEXT COLLATE "C" NOT NULL,
    user_name TEXT COLLATE "C" NOT NULL,
    tag_key TEXT COLLATE "C" NOT NULL,
    tag_value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, user_name, tag_key),
    FOREIGN KEY (account, user_name) REFERENCES "user" ON DELETE CASCADE
);

CREATE TABLE access_key (
    access_key_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL,
    user_name TEXT COLLATE "C" NOT NULL,
    sealed_secret BYTEA NOT NULL,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('Active', 'Inactive')),
    created_at BIGINT NOT NULL,
    FOREIGN KEY (account, user_name) REFERENCES "user" ON DELETE CASCADE
);

CREATE TABLE role (
    account TEXT COLLATE "C" NOT NULL REFERENCES account,
    name TEXT COLLATE "C" NOT NULL,
    role_id TEXT COLLATE "C" NOT NULL UNIQUE,
    arn TEXT COLLATE "C" NOT NULL UNIQUE,
    trust_policy TEXT COLLATE "C" NOT NULL,
    max_session_seconds BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

CREATE TABLE role_policy (
    account TEXT COLLATE "C" NOT NULL,
    role_name TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    document TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, role_name, name),
    FOREIGN KEY (account, role_name) REFERENCES role ON DELETE CASCADE
);

CREATE TABLE role_tag (
    account TEXT COLLATE "C" NOT NULL,
    role_name TEXT COLLATE "C" NOT NULL,
    tag_key TEXT COLLATE "C" NOT NULL,
    tag_value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, role_name, tag_key),
    FOREIGN KEY (account, role_name) REFERENCES role ON DELETE CASCADE
);

CREATE TABLE token_object (
    object_id BYTEA NOT NULL PRIMARY KEY CHECK (length(object_id) = 16),
    owner TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('creating', 'ready', 'missing', 'destroying', 'destroyed')),
    created_at BIGINT NOT NULL,
    token TEXT COLLATE "C" NOT NULL DEFAULT 'main',
    maker BIGINT,
    messages BIGINT NOT NULL DEFAULT 0,
    custody TEXT COLLATE "C" NOT NULL DEFAULT 'object' CHECK (custody IN ('object', 'wrapped'))
);

CREATE TABLE service_key (
    purpose TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    object_id BYTEA NOT NULL UNIQUE REFERENCES token_object,
    algorithm BIGINT
);

CREATE TABLE key (
    key_id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (length(key_id) = 36),
    account TEXT COLLATE "C" NOT NULL REFERENCES account,
    arn TEXT COLLATE "C" NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    origin TEXT COLLATE "C" NOT NULL CHECK (origin IN ('AWS_KMS', 'EXTERNAL')),
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('Enabled', 'Disabled', 'PendingDeletion', 'PendingImport')),
    policy TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    current_material BYTEA,
    deletion_at BIGINT CHECK ((deletion_at IS NOT NULL) = (state = 'PendingDeletion')),
    pending_window_days BIGINT,
    valid_to BIGINT,
    expiration_model TEXT COLLATE "C",
    rotation_period_days BIGINT,
    next_rotation_at BIGINT,
    spec TEXT COLLATE "C" NOT NULL DEFAULT 'SYMMETRIC_DEFAULT',
    usage TEXT COLLATE "C" NOT NULL DEFAULT 'ENCRYPT_DECRYPT',
    algorithms TEXT COLLATE "C" NOT NULL DEFAULT 'SYMMETRIC_DEFAULT'
);

CREATE TABLE key_count (
    account TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES account,
    keys BIGINT NOT NULL
);

CREATE TABLE material (
    material_id BYTEA NOT NULL PRIMARY KEY REFERENCES token_object,
    key_id TEXT COLLATE "C" NOT NULL REFERENCES key ON DELETE CASCADE,
    algorithm BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    rotation_type TEXT COLLATE "C" CHECK (rotation_type IN ('AUTOMATIC', 'ON_DEMAND')),
    public_key BYTEA NOT NULL DEFAULT ''
);

CREATE TABLE alias (
    account TEXT COLLATE "C" NOT NULL REFERENCES account,
    name TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL REFERENCES key ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

CREATE TABLE key_tag (
    key_id TEXT COLLATE "C" NOT NULL REFERENCES key ON DELETE CASCADE,
    tag_key TEXT COLLATE "C" NOT NULL,
    tag_value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (key_id, tag_key)
);

CREATE TABLE grant_ (
    grant_id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (length(grant_id) = 64),
    key_id TEXT COLLATE "C" NOT NULL REFERENCES key ON DELETE CASCADE,
    name TEXT COLLATE "C",
    grantee_principal TEXT COLLATE "C" NOT NULL,
    retiring_principal TEXT COLLATE "C",
    operations TEXT COLLATE "C" NOT NULL,
    context_equals TEXT COLLATE "C",
    context_subset TEXT COLLATE "C",
    issuing_account TEXT COLLATE "C" NOT NULL,
    issuing_principal TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE grant_count (
    key_id TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES key ON DELETE CASCADE,
    grants BIGINT NOT NULL
);

CREATE TABLE lease (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE TABLE wrapping_key (
    object_id BYTEA NOT NULL PRIMARY KEY REFERENCES token_object,
    bits BIGINT NOT NULL,
    public_key BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    key_id TEXT COLLATE "C",
    expires_at BIGINT CHECK ((expires_at IS NULL) = (key_id IS NULL)),
    failures BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE log_group (
    group_id BYTEA NOT NULL PRIMARY KEY CHECK (length(group_id) = 16),
    account TEXT COLLATE "C" NOT NULL REFERENCES account,
    name TEXT COLLATE "C" NOT NULL,
    arn TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    log_class TEXT COLLATE "C" NOT NULL,
    retention_days BIGINT,
    kms_key TEXT COLLATE "C",
    revision BIGINT NOT NULL,
    UNIQUE (account, name)
);

CREATE TABLE log_group_tag (
    group_id BYTEA NOT NULL REFERENCES log_group ON DELETE CASCADE,
    tag_key TEXT COLLATE "C" NOT NULL,
    tag_value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (group_id, tag_key)
);

CREATE TABLE log_stream (
    stream_id BYTEA NOT NULL PRIMARY KEY CHECK (length(stream_id) = 16),
    group_id BYTEA NOT NULL REFERENCES log_group ON DELETE CASCADE,
    name TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (group_id, name)
);

CREATE TABLE log_dead_group (
    group_id BYTEA NOT NULL PRIMARY KEY,
    deleted_at BIGINT NOT NULL
);

CREATE TABLE log_dead_stream (
    group_id BYTEA NOT NULL REFERENCES log_group ON DELETE CASCADE,
    stream_id BYTEA NOT NULL,
    PRIMARY KEY (group_id, stream_id)
);

CREATE TABLE log_results_key (
    account TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES account,
    kms_key TEXT COLLATE "C",
    revision BIGINT NOT NULL
);

CREATE TABLE log_query (
    query_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL REFERENCES account,
    group_name TEXT COLLATE "C" NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    deadline_at BIGINT NOT NULL,
    sealed_text BYTEA NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    ended_at BIGINT,
    statistics TEXT COLLATE "C" NOT NULL,
    kms_key TEXT COLLATE "C"
);

CREATE TABLE clock_reading (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    trusted_at BIGINT NOT NULL,
    boot TEXT COLLATE "C" NOT NULL,
    uptime_micros BIGINT NOT NULL,
    taken_on_micros BIGINT NOT NULL
);

CREATE TABLE session_mac (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    sealed BYTEA,
    older_until BIGINT
);

CREATE TABLE key_usage (
    key_id TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES key ON DELETE CASCADE,
    operation TEXT COLLATE "C" NOT NULL,
    used_at BIGINT NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL
);

CREATE TABLE key_usage_tracking (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    since BIGINT
);

CREATE TABLE imported_material (
    material_id BYTEA NOT NULL PRIMARY KEY CHECK (length(material_id) = 16),
    key_id TEXT COLLATE "C" NOT NULL REFERENCES key ON DELETE CASCADE,
    algorithm BIGINT,
    fingerprint BYTEA NOT NULL CHECK (length(fingerprint) IN (16, 32)),
    description TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('CURRENT', 'NON_CURRENT', 'PENDING_ROTATION')),
    imported_at BIGINT NOT NULL,
    rotated_at BIGINT CHECK (rotated_at IS NULL OR state <> 'PENDING_ROTATION'),
    valid_to BIGINT,
    UNIQUE (key_id, fingerprint)
);

CREATE TABLE key_state_count (
    state TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    keys BIGINT NOT NULL
);

CREATE TABLE domain_key (
    domain_key_id BYTEA NOT NULL PRIMARY KEY CHECK (length(domain_key_id) = 16),
    token TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('next', 'current', 'retiring', 'destroyed')),
    binding_key BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    missing BIGINT NOT NULL DEFAULT 0 CHECK (missing IN (0, 1))
);

CREATE TABLE wrapped_material (
    material_id BYTEA NOT NULL PRIMARY KEY REFERENCES token_object ON DELETE CASCADE,
    domain_key_id BYTEA NOT NULL REFERENCES domain_key,
    mechanism BIGINT NOT NULL,
    content BYTEA NOT NULL,
    mac BYTEA NOT NULL
);

CREATE TABLE domain_key_count (
    domain_key_id BYTEA NOT NULL PRIMARY KEY REFERENCES domain_key ON DELETE CASCADE,
    materials BIGINT NOT NULL
);

CREATE TABLE deleted_material (
    material_id BYTEA NOT NULL PRIMARY KEY
);

CREATE INDEX access_key_user ON access_key (account, user_name);
CREATE INDEX token_object_unsettled ON token_object (status) WHERE status NOT IN ('ready', 'destroyed');
CREATE INDEX key_account ON key (account, key_id);
CREATE INDEX key_deletion ON key (deletion_at) WHERE deletion_at IS NOT NULL;
CREATE INDEX key_rotation ON key (next_rotation_at) WHERE next_rotation_at IS NOT NULL;
CREATE INDEX material_key ON material (key_id);
CREATE INDEX alias_key ON alias (key_id, name);
CREATE INDEX grant_key_grantee ON grant_ (key_id, grantee_principal, grant_id);
CREATE INDEX grant_key ON grant_ (key_id, grant_id);
CREATE INDEX grant_retiring ON grant_ (retiring_principal, grant_id) WHERE retiring_principal IS NOT NULL;
CREATE INDEX grant_name ON grant_ (key_id, name) WHERE name IS NOT NULL;
CREATE INDEX log_group_retention ON log_group (retention_days) WHERE retention_days IS NOT NULL;
CREATE INDEX log_query_account ON log_query (account, created_at, query_id);
CREATE INDEX log_query_age ON log_query (created_at);
CREATE INDEX log_query_running ON log_query (account) WHERE status = 'Running';
CREATE INDEX token_object_messages ON token_object (messages) WHERE messages > 0;
CREATE UNIQUE INDEX imported_material_current ON imported_material (key_id) WHERE state = 'CURRENT';
CREATE UNIQUE INDEX imported_material_pending ON imported_material (key_id) WHERE state = 'PENDING_ROTATION';
CREATE INDEX imported_material_expiry ON imported_material (valid_to) WHERE valid_to IS NOT NULL;
CREATE INDEX token_object_objects ON token_object (created_at) WHERE custody = 'object';
CREATE UNIQUE INDEX domain_key_current ON domain_key (token) WHERE state = 'current';
CREATE INDEX wrapped_material_domain_key ON wrapped_material (domain_key_id);

INSERT INTO session_mac (id, sealed, older_until) VALUES (1, NULL, 0);
INSERT INTO key_usage_tracking (id, since) VALUES (1, NULL);

-- Counters: counting a million rows is not cheap.
CREATE FUNCTION count_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO key_count (account, keys) VALUES (NEW.account, 1)
        ON CONFLICT (account) DO UPDATE SET keys = key_count.keys + 1;
    ELSE
        UPDATE key_count SET keys = keys - 1 WHERE account = OLD.account;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER key_counted AFTER INSERT OR DELETE ON key FOR EACH ROW EXECUTE FUNCTION count_key();

CREATE FUNCTION count_key_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE key_state_count SET keys = keys - 1 WHERE state = OLD.state;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO key_state_count (state, keys) VALUES (NEW.state, 1)
        ON CONFLICT (state) DO UPDATE SET keys = key_state_count.keys + 1;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER key_state_counted AFTER INSERT OR DELETE ON key FOR EACH ROW EXECUTE FUNCTION count_key_state();
CREATE TRIGGER key_state_recounted AFTER UPDATE OF state ON key FOR EACH ROW
    WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION count_key_state();

CREATE FUNCTION count_grant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO grant_count (key_id, grants) VALUES (NEW.key_id, 1)
        ON CONFLICT (key_id) DO UPDATE SET grants = grant_count.grants + 1;
    ELSE
        UPDATE grant_count SET grants = grants - 1 WHERE key_id = OLD.key_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER grant_counted AFTER INSERT OR DELETE ON grant_ FOR EACH ROW EXECUTE FUNCTION count_grant();

CREATE FUNCTION count_wrapped() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE domain_key_count SET materials = materials - 1 WHERE domain_key_id = OLD.domain_key_id;
    END IF;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO deleted_material (material_id) VALUES (OLD.material_id) ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO domain_key_count (domain_key_id, materials) VALUES (NEW.domain_key_id, 1)
        ON CONFLICT (domain_key_id) DO UPDATE SET materials = domain_key_count.materials + 1;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER wrapped_material_counted AFTER INSERT OR DELETE OR UPDATE OF domain_key_id ON wrapped_material
    FOR EACH ROW EXECUTE FUNCTION count_wrapped();

-- Notes a change under the number of this transaction.
CREATE FUNCTION note_change(changed TEXT) RETURNS void LANGUAGE sql AS $$
    INSERT INTO change (seq, subject) SELECT seq, changed FROM change_seq WHERE changed IS NOT NULL ON CONFLICT DO NOTHING;
$$;
-- The argument of the trigger is the subject.
CREATE FUNCTION change_subject() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_change(TG_ARGV[0]);
    RETURN NULL;
END $$;
CREATE FUNCTION change_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_change(CASE WHEN TG_OP = 'DELETE' THEN OLD.key_id ELSE NEW.key_id END);
    RETURN NULL;
END $$;
CREATE FUNCTION change_wrapped() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_change((SELECT key_id FROM material WHERE material_id = NEW.material_id));
    RETURN NULL;
END $$;
-- An object that is being destroyed: each process invalidates the keys derived from it too.
CREATE FUNCTION change_object() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_change((SELECT key_id FROM material WHERE material_id = NEW.object_id));
    IF NEW.status = 'destroying' THEN
        PERFORM note_change('object:' || encode(NEW.object_id, 'hex'));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER change_key AFTER INSERT OR UPDATE OR DELETE ON key FOR EACH ROW EXECUTE FUNCTION change_key();
CREATE TRIGGER change_material AFTER INSERT OR UPDATE OR DELETE ON material FOR EACH ROW EXECUTE FUNCTION change_key();
CREATE TRIGGER change_key_tag AFTER INSERT OR UPDATE OR DELETE ON key_tag FOR EACH ROW EXECUTE FUNCTION change_key();
CREATE TRIGGER change_grant_ AFTER INSERT OR UPDATE OR DELETE ON grant_ FOR EACH ROW EXECUTE FUNCTION change_key();
CREATE TRIGGER change_token_object AFTER UPDATE ON token_object FOR EACH ROW EXECUTE FUNCTION change_object();
CREATE TRIGGER change_wrapped_material AFTER UPDATE ON wrapped_material FOR EACH ROW EXECUTE FUNCTION change_wrapped();
CREATE TRIGGER change_alias AFTER INSERT OR UPDATE OR DELETE ON alias FOR EACH STATEMENT EXECUTE FUNCTION change_subject('alias');
CREATE TRIGGER change_user AFTER UPDATE OR DELETE ON "user" FOR EACH STATEMENT EXECUTE FUNCTION change_subject('identity');
CREATE TRIGGER change_user_policy AFTER INSERT OR UPDATE OR DELETE ON user_policy FOR EACH STATEMENT EXECUTE FUNCTION change_subject('identity');
CREATE TRIGGER change_user_tag AFTER INSERT OR DELETE ON user_tag FOR EACH STATEMENT EXECUTE FUNCTION change_subject('identity');
CREATE TRIGGER change_access_key AFTER INSERT OR UPDATE OR DELETE ON access_key FOR EACH STATEMENT EXECUTE FUNCTION change_subject('identity');
CREATE TRIGGER change_role AFTER INSERT OR UPDATE OR DELETE ON role FOR EACH STATEMENT EXECUTE FUNCTION change_subject('identity');
CREATE TRIGGER change_role_policy AFTER INSERT OR UPDATE OR DELETE ON role_policy FOR EACH STATEMENT EXECUTE FUNCTION change_subject('identity');
CREATE TRIGGER change_role_tag AFTER INSERT OR DELETE ON role_tag FOR EACH STATEMENT EXECUTE FUNCTION change_subject('identity');
CREATE TRIGGER change_service_key AFTER INSERT ON service_key FOR EACH STATEMENT EXECUTE FUNCTION change_subject('service');
CREATE TRIGGER change_session_mac AFTER UPDATE ON session_mac FOR EACH STATEMENT EXECUTE FUNCTION change_subject('service');
CREATE TRIGGER change_log_group AFTER UPDATE OR DELETE ON log_group FOR EACH STATEMENT EXECUTE FUNCTION change_subject('logs');
CREATE TRIGGER change_log_stream AFTER UPDATE OR DELETE ON log_stream FOR EACH STATEMENT EXECUTE FUNCTION change_subject('logs');
CREATE TRIGGER change_domain_key AFTER INSERT OR UPDATE OR DELETE ON domain_key FOR EACH STATEMENT EXECUTE FUNCTION change_subject('domain-key');
