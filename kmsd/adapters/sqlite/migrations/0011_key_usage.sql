-- Last use of each key (kmsd/custody/key_usage.py), and the time from which on uses are recorded: exactly one row.
-- since is NULL until the first start.
CREATE TABLE key_usage (
    key_id TEXT NOT NULL PRIMARY KEY REFERENCES key ON DELETE CASCADE,
    operation TEXT NOT NULL,
    used_at INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    request_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE key_usage_tracking (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    since INTEGER
) STRICT;
INSERT INTO key_usage_tracking (id, since) VALUES (1, NULL);
