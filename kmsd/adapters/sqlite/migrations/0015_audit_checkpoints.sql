-- Last signed checkpoint of each chain of each node's audit trail. Of SQLite there is one host, which publishes none.
CREATE TABLE audit_checkpoint (
    node_id TEXT NOT NULL,
    writer TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    hash TEXT NOT NULL,
    at TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (node_id, writer)
) STRICT, WITHOUT ROWID;
