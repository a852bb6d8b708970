-- Log events, sealed by the daemon. A frame is a batch of one stream; its head is in the clear, its events are not.
-- Each partition holds what expires on one day, or within a few (kmsd/adapters/postgres/frame_partitions.py); that of
-- day 0 holds what does not expire. A group's retention may have changed since: it counts, and not the partition.
CREATE TABLE log_frame (
    group_id BYTEA NOT NULL CHECK (length(group_id) = 16),
    stream_id BYTEA NOT NULL CHECK (length(stream_id) = 16),
    frame_id BYTEA NOT NULL CHECK (length(frame_id) = 10),
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    ingested_at BIGINT NOT NULL,
    events BIGINT NOT NULL,
    size BIGINT NOT NULL,
    packing BIGINT NOT NULL,
    expires_on BIGINT NOT NULL,
    data_key_id BYTEA NOT NULL,
    kms_key TEXT COLLATE "C" NOT NULL,
    context_arn TEXT COLLATE "C" NOT NULL,
    wrapped_key BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    -- Most frames span seconds, few a day: a search looks for the long ones by themselves.
    is_long BOOLEAN NOT NULL GENERATED ALWAYS AS (last_at - first_at > 60000) STORED,
    CONSTRAINT log_frame_span CHECK (last_at - first_at BETWEEN 0 AND 86400000),
    PRIMARY KEY (group_id, stream_id, is_long, first_at, frame_id, expires_on)
) PARTITION BY LIST (expires_on);
-- Sealed events cannot be compressed.
ALTER TABLE log_frame ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX log_frame_last ON log_frame (group_id, stream_id, is_long, last_at, frame_id);
CREATE INDEX log_frame_group_first ON log_frame (group_id, is_long, first_at, frame_id);
CREATE INDEX log_frame_group_last ON log_frame (group_id, is_long, last_at, frame_id);
CREATE TABLE log_frame_0 PARTITION OF log_frame FOR VALUES IN (0);

-- Sums over the frames of a stream in a partition. Processes add to different rows (slot), so that they do not wait
-- for each other. Slot -1 has what was deleted or moved, with negative numbers.
CREATE TABLE log_frame_sum (
    group_id BYTEA NOT NULL,
    stream_id BYTEA NOT NULL,
    slot BIGINT NOT NULL,
    expires_on BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    ingested_at BIGINT NOT NULL,
    events BIGINT NOT NULL,
    size BIGINT NOT NULL,
    PRIMARY KEY (group_id, stream_id, slot, expires_on)
) PARTITION BY LIST (expires_on);
CREATE TABLE log_frame_sum_0 PARTITION OF log_frame_sum FOR VALUES IN (0) WITH (fillfactor = 50);

-- Encrypted results of queries.
CREATE TABLE log_result (
    query_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    content BYTEA NOT NULL
);
ALTER TABLE log_result ALTER COLUMN content SET STORAGE EXTERNAL;
