-- By which user-signing key a signature was made. What is not by the signer's present one is not shown, and is deleted some at
-- a time: a user may have signed many others.
ALTER TABLE user_signatures ADD COLUMN signed_by TEXT NOT NULL DEFAULT '';
UPDATE user_signatures SET signed_by = coalesce((SELECT key_id FROM cross_signing_keys k WHERE k.user_id = signer AND k.usage = 'user_signing'), '');

-- The passes of a user end with the sessions.
CREATE INDEX passes_user ON passes (user_id);
