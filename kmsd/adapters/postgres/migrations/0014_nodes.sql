-- Nodes: the hosts that share this database. A host whose id has no row here is refused.
CREATE TABLE node (
    node_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    joined_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    version TEXT COLLATE "C" NOT NULL
);

-- Processes that promise token objects, and when each was last alive, by the server's clock.
CREATE TABLE maker (
    maker BIGINT NOT NULL PRIMARY KEY,
    node_id TEXT COLLATE "C" NOT NULL,
    seen_at BIGINT NOT NULL
);

-- Last trusted reading of each node's clock, and when it was stored, by the server's clock. The first node takes over
-- the reading with the empty id, which was made before there were nodes.
ALTER TABLE clock_reading DROP COLUMN id;
ALTER TABLE clock_reading ADD COLUMN node_id TEXT COLLATE "C" NOT NULL PRIMARY KEY DEFAULT '';
ALTER TABLE clock_reading ALTER COLUMN node_id DROP DEFAULT;
ALTER TABLE clock_reading ADD COLUMN stored_at BIGINT NOT NULL DEFAULT 0;
UPDATE clock_reading SET stored_at = trusted_at;
ALTER TABLE clock_reading ALTER COLUMN stored_at DROP DEFAULT;
