-- Nodes: the hosts that share a database. Of SQLite there is one, which has no row.
CREATE TABLE node (
    node_id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    joined_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    version TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Processes that promise token objects, and when each was last alive. SQLite has locks for this (process_liveness.py).
CREATE TABLE maker (
    maker INTEGER NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;

-- Last trusted reading of each node's clock (kmsd/domain/trusted_time.py). The only node has the empty id.
CREATE TABLE clock_reading_of_node (
    node_id TEXT NOT NULL PRIMARY KEY,
    trusted_at INTEGER NOT NULL,
    boot TEXT NOT NULL,
    uptime_micros INTEGER NOT NULL,
    taken_on_micros INTEGER NOT NULL,
    stored_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO clock_reading_of_node (node_id, trusted_at, boot, uptime_micros, taken_on_micros, stored_at)
    SELECT '', trusted_at, boot, uptime_micros, taken_on_micros, trusted_at FROM clock_reading;
DROP TABLE clock_reading;
ALTER TABLE clock_reading_of_node RENAME TO clock_reading;
