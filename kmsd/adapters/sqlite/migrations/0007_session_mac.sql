-- Key that authenticates session tokens before the HSM is asked (kmsd/custody/session_sealer.py): exactly one row.
-- older_until: session tokens without MAC are accepted before this instant. NULL: the daemon sets it at its next start.
CREATE TABLE session_mac (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    sealed BLOB,
    older_until INTEGER
) STRICT;
-- A database without service keys is new, and no session was issued from it.
INSERT INTO session_mac (id, sealed, older_until)
SELECT 1, NULL, CASE WHEN EXISTS (SELECT 1 FROM service_key) THEN NULL ELSE 0 END;
CREATE TRIGGER change_session_mac AFTER UPDATE ON session_mac
BEGIN INSERT INTO change (subject) VALUES ('service'); END;
