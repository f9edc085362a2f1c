-- How old a message is follows from its position, which contains the time of the clock. If the clock was set
-- back, positions are ahead of it until it has caught up, and messages would be kept for longer by as much.
-- So prune() and prune_part() call this function first, which then notes the time and the last position. A
-- message up to a noted position was committed before the noted time: position_at().
--
-- keep: how exact the times need to be: to a sixtieth of it, or to a minute. Returns whether there are notes.
-- Fast batches and backlogs are ahead as well, but by less than the minute that makes a note.
CREATE OR REPLACE FUNCTION pgpoll.note_position(keep interval) RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    now constant timestamptz := clock_timestamp();
    given constant bigint := pg_sequence_last_value('pgpoll.last_position');
    newest timestamptz; -- note
BEGIN
    IF given >> 16 <= extract(epoch FROM now) * 1000 + 60000 OR given IS NULL THEN
        DELETE FROM pgpoll.position_times;
        RETURN false;
    END IF;
    newest := (SELECT p.noted_at FROM pgpoll.position_times p ORDER BY p.position DESC LIMIT 1);
    -- A time in the future was noted before the clock was set back once more.
    IF newest BETWEEN now - least(keep / 60, interval '1 min') AND now THEN
        RETURN true;
    END IF;
    INSERT INTO pgpoll.position_times (position, noted_at) VALUES (given, now)
    ON CONFLICT (position) DO UPDATE SET noted_at = excluded.noted_at
    WHERE position_times.noted_at > excluded.noted_at;
    RETURN true;
END $$;
COMMENT ON FUNCTION pgpoll.note_position(interval) IS
    'Internal. While positions are ahead of the clock, notes when the last one was given.';
