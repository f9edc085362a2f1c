-- The name of a topic's channel is 'pgpoll_' and the first 56 hex digits of the topic's SHA-256: 63 bytes,
-- the longest name that a channel can have. SHA-256 works always; MD5 raises an error if OpenSSL runs in FIPS
-- mode.
--
-- The body is parsed when the function is created, so the function needs no search_path. A SET clause would
-- prevent inlining, which matters because the function runs for every message. It is STABLE because
-- convert_to() is: an IMMUTABLE function that calls it is not inlined either.
CREATE OR REPLACE FUNCTION pgpoll.channel(topic text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN 'pgpoll_' || left(encode(sha256(convert_to(topic, 'UTF8')), 'hex'), 56);
COMMENT ON FUNCTION pgpoll.channel(text) IS
    'The NOTIFY channel on which messages of this topic are announced to sessions that have called listen().';
