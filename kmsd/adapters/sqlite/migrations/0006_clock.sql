-- Last trusted reading of the clock (kmsd/domain/trusted_time.py): at most one row.
CREATE TABLE clock_reading (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    trusted_at INTEGER NOT NULL,
    boot TEXT NOT NULL,
    uptime_micros INTEGER NOT NULL,
    taken_on_micros INTEGER NOT NULL
) STRICT;
