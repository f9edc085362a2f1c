-- Returns the position that belongs to a time: what has a lower one was committed before it. noted: what
-- note_position() returned.
CREATE OR REPLACE FUNCTION pgpoll.position_at(moment timestamptz, noted boolean) RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    -- Never before 1970, where the shift would overflow.
    at_clock constant bigint := greatest((extract(epoch FROM moment) * 1000)::bigint, 0) << 16;
BEGIN
    IF NOT noted THEN
        RETURN at_clock;
    END IF;
    RETURN greatest(at_clock, (SELECT p.position + 1 FROM pgpoll.position_times p
                               WHERE p.noted_at <= moment ORDER BY p.noted_at DESC LIMIT 1));
END $$;
COMMENT ON FUNCTION pgpoll.position_at(timestamptz, boolean) IS
    'Internal. The position that belongs to a time. What has a lower one was committed before it.';
