-- Last signed checkpoint of each chain of each node's audit trail. Rows of removed nodes stay: they prove what there was.
CREATE TABLE audit_checkpoint (
    node_id TEXT COLLATE "C" NOT NULL,
    writer TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    hash TEXT NOT NULL,
    at TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (node_id, writer)
);
