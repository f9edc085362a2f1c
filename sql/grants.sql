-- Roles other than the owner may do only what this file grants. Functions that read or write tables are
-- SECURITY DEFINER: they run with the rights of the schema's owner, so pgpoll_poller needs no rights on
-- tables.
REVOKE ALL ON SCHEMA pgpoll FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pgpoll FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgpoll FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA pgpoll FROM PUBLIC;

GRANT USAGE ON SCHEMA pgpoll TO pgpoll_publisher, pgpoll_poller, pgpoll_monitor;

GRANT INSERT (topic, payload, metadata) ON pgpoll.messages TO pgpoll_publisher;

GRANT EXECUTE ON FUNCTION
    pgpoll.schema_version(),
    pgpoll.can_poll(text, text),
    pgpoll.refused_topic(text, text[]),
    pgpoll.is_open_to_all(),
    pgpoll.authenticate(text),
    pgpoll.has_authenticate(),
    pgpoll.channel(text),
    pgpoll.listen(text[], boolean),
    pgpoll.assign_positions(),
    pgpoll.new_messages(integer, bigint, bigint, text[], boolean),
    pgpoll.read_feed(integer, bigint, bigint, text[], bigint),
    pgpoll.newest_positions(text[]),
    pgpoll.mute_doorbell(integer),
    pgpoll.unmute_doorbell(),
    pgpoll.catch_up(text[], bigint[], integer, bigint),
    pgpoll.write_statistics(text, json),
    pgpoll.sweep_waiters()
TO pgpoll_poller;
GRANT SELECT ON pgpoll.stats, pgpoll.feed_messages TO pgpoll_poller;
GRANT SELECT ON SEQUENCE pgpoll.last_deleted TO pgpoll_poller;

GRANT EXECUTE ON FUNCTION pgpoll.cursor() TO pgpoll_publisher, pgpoll_poller;
GRANT EXECUTE ON FUNCTION pgpoll.retained_topics(integer) TO pgpoll_poller, pgpoll_monitor;
GRANT EXECUTE ON FUNCTION pgpoll.schema_version() TO pgpoll_monitor;
GRANT SELECT ON pgpoll.stats, pgpoll.topic_waiters, pgpoll.live_waiters, pgpoll.waiters TO pgpoll_monitor;

-- For the metrics, pgpoll.fcgi --check and operators.
GRANT EXECUTE ON FUNCTION pgpoll.metrics(text, boolean), pgpoll.problems(text, integer, integer)
TO pgpoll_poller, pgpoll_monitor;
GRANT EXECUTE ON FUNCTION pgpoll.try_position() TO pgpoll_poller;
GRANT EXECUTE ON FUNCTION pgpoll.topic_sizes(), pgpoll.without_position() TO pgpoll_monitor;
GRANT SELECT ON pgpoll.retention_rules, pgpoll.listeners, pgpoll.counters, pgpoll.listening, pgpoll.waiting,
    pgpoll.topics, pgpoll.retained, pgpoll.held_up, pgpoll.notification_queue
TO pgpoll_monitor;
