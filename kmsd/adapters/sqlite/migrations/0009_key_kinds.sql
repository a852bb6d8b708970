-- Kinds of keys. Earlier keys are symmetric.
ALTER TABLE key ADD COLUMN spec TEXT NOT NULL DEFAULT 'SYMMETRIC_DEFAULT';
ALTER TABLE key ADD COLUMN usage TEXT NOT NULL DEFAULT 'ENCRYPT_DECRYPT';
-- Algorithms that the token offers for the key, separated by blanks.
ALTER TABLE key ADD COLUMN algorithms TEXT NOT NULL DEFAULT 'SYMMETRIC_DEFAULT';
-- Public half of a key pair, DER SubjectPublicKeyInfo. Material that encrypts no blobs has algorithm 0.
ALTER TABLE material ADD COLUMN public_key BLOB NOT NULL DEFAULT x'';
-- Any number of tokens. A constraint is removed from the text of the schema (SQLite documentation, ALTER TABLE, section
-- 7: "removing CHECK … constraints"); the columns above change the schema's version.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, ' CHECK (token IN (''main'', ''import''))', '') WHERE name = 'token_object';
PRAGMA writable_schema = RESET;
