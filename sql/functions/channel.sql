-- The NOTIFY channel of a topic: 'pgpoll_' and the first 56 hex digits of the SHA-256 of its name, 63 bytes,
-- which is all that a channel may have. SHA-256 is built in: MD5 raises an error where OpenSSL runs in FIPS
-- mode.
--
-- Its names are looked up once, here, and a SET clause would keep it from being inlined, which matters: it
-- runs for every message. convert_to() is STABLE, so this is: an IMMUTABLE function that calls it is not
-- inlined either.
CREATE OR REPLACE FUNCTION pgpoll.channel(topic text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN 'pgpoll_' || left(encode(sha256(convert_to(topic, 'UTF8')), 'hex'), 56);
