-- The key that authenticates session tokens before the token is asked (kmsd/custody/session_box.py): exactly one row.
CREATE TABLE session_mac (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    sealed BLOB,
    older_until INTEGER NOT NULL
) STRICT;
-- Sessions last at most 36 hours: so long after an upgrade there may be session tokens that have no MAC. A database
-- without service keys is new, and has issued none.
INSERT INTO session_mac (id, sealed, older_until)
SELECT 1, NULL, CASE WHEN EXISTS (SELECT 1 FROM service_key)
    THEN (CAST(strftime('%s', 'now') AS INTEGER) + 129600) * 1000000 ELSE 0 END;
CREATE TRIGGER change_session_mac AFTER UPDATE ON session_mac
BEGIN INSERT INTO change (subject) VALUES ('service'); END;
