-- CloudWatch Logs: names, retention and keys of groups. Events are in encrypted segments, not here.

CREATE TABLE log_group (
    group_id BLOB NOT NULL PRIMARY KEY CHECK (length(group_id) = 16),
    account TEXT NOT NULL REFERENCES account,
    name TEXT NOT NULL,
    arn TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    log_class TEXT NOT NULL,
    retention_days INTEGER,
    kms_key TEXT,
    revision INTEGER NOT NULL,
    UNIQUE (account, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX log_group_retention ON log_group (retention_days) WHERE retention_days IS NOT NULL;

CREATE TABLE log_group_tag (
    group_id BLOB NOT NULL REFERENCES log_group ON DELETE CASCADE,
    tag_key TEXT NOT NULL,
    tag_value TEXT NOT NULL,
    PRIMARY KEY (group_id, tag_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE log_stream (
    stream_id BLOB NOT NULL PRIMARY KEY CHECK (length(stream_id) = 16),
    group_id BLOB NOT NULL REFERENCES log_group ON DELETE CASCADE,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (group_id, name)
) STRICT, WITHOUT ROWID;

-- Deleted groups and streams that may still have events in segments. A job removes those, then the row.
CREATE TABLE log_dead_group (
    group_id BLOB NOT NULL PRIMARY KEY,
    deleted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE log_dead_stream (
    group_id BLOB NOT NULL REFERENCES log_group ON DELETE CASCADE,
    stream_id BLOB NOT NULL,
    PRIMARY KEY (group_id, stream_id)
) STRICT, WITHOUT ROWID;

-- Key for query results; without a row the daemon's own.
CREATE TABLE log_results_key (
    account TEXT NOT NULL PRIMARY KEY REFERENCES account,
    kms_key TEXT,
    revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The query's text is encrypted. Its results are beside the segments, also encrypted.
CREATE TABLE log_query (
    query_id TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL REFERENCES account,
    group_name TEXT NOT NULL,
    principal TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deadline_at INTEGER NOT NULL,
    sealed_text BLOB NOT NULL,
    status TEXT NOT NULL,
    ended_at INTEGER,
    statistics TEXT NOT NULL,
    kms_key TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX log_query_account ON log_query (account, created_at, query_id);
CREATE INDEX log_query_age ON log_query (created_at);
CREATE INDEX log_query_running ON log_query (account) WHERE status = 'Running';

-- As in 0001: changes that each process must invalidate in its cache.
CREATE TRIGGER change_log_group_update AFTER UPDATE ON log_group BEGIN INSERT INTO change (subject) VALUES ('logs'); END;
CREATE TRIGGER change_log_group_delete AFTER DELETE ON log_group BEGIN INSERT INTO change (subject) VALUES ('logs'); END;
CREATE TRIGGER change_log_stream_update AFTER UPDATE ON log_stream BEGIN INSERT INTO change (subject) VALUES ('logs'); END;
CREATE TRIGGER change_log_stream_delete AFTER DELETE ON log_stream BEGIN INSERT INTO change (subject) VALUES ('logs'); END;
