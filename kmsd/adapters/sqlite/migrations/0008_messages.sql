-- Messages counted for an object that encrypts by AES-GCM with random nonces (kmsd/custody/message_counts.py).
ALTER TABLE token_object ADD COLUMN messages INTEGER NOT NULL DEFAULT 0;
CREATE INDEX token_object_messages ON token_object (messages) WHERE messages > 0;
