"""The check of histories accepts a right history, and finds each fault that is planted in it."""
import dataclasses
import math

import pytest

from history import Check, Poll, Sent, check_failures

TOPICS = ["a", "b"]


class Reader:
    """A client's record, written by hand."""

    def __init__(self, *polls):
        self.polls, self.wanting, self.roams = list(polls), set(), False


def cursor(n):
    return f"msg_{n:016x}"


def answer(since, texts, next_since, **more):
    """texts: messages named by topic and position, such as a3."""
    return Poll(TOPICS, since, 100, 1, 0.0, 0.5, 200, messages=[(text[0], cursor(int(text[1:])), text) for text in texts],
                next_since={topic: cursor(n) for topic, n in next_since.items()}, gaps={}, **more)


@pytest.fixture
def sent():
    """Returns twelve messages of two writers, one per second, in the order of their positions. It is unknown whether the last one was committed."""
    made = [Sent("odd" if n % 2 else "even", topic := TOPICS[n % 3 == 0], f"{topic}{n}", n, n + 0.5) for n in range(1, 13)]
    made[-1].ended = math.inf
    return made


@pytest.fixture
def clients(sent):
    """Returns a client that read all messages, and one that began from now on after the fourth."""
    texts = [message.text for message in sent]
    return [Reader(answer({"a": "0", "b": "0"}, texts[:5], {"a": 5, "b": 3}, has_more=True),
                   answer({"a": "0-5", "b": cursor(3)}, texts[5:9], {"a": 8, "b": 9}),
                   answer({"a": cursor(8), "b": cursor(9)}, texts[9:11], {"a": 11, "b": 9})),
            Reader(answer({"a": "$", "b": None}, [], {"a": 4, "b": 3}),
                   answer({"a": cursor(4), "b": cursor(3)}, texts[4:11], {"a": 11, "b": 9}))]


def kinds(*arguments, **options):
    return {complaint.split(":")[0] for complaint in Check(*arguments, **options).complaints}


def test_nothing_is_wrong(sent, clients):
    assert Check(sent, clients).complaints == []


def test_in_doubt_may_have_happened(sent, clients):
    clients.append(Reader(answer({"a": cursor(11), "b": cursor(9)}, ["b12"], {"a": 11, "b": 12})))
    assert Check(sent, clients).complaints == []


def without(number, page, place):
    def plant(_, clients):
        del clients[number].polls[page].messages[place]
    return plant


def swap(_, clients):
    messages = clients[1].polls[1].messages
    messages[2:4] = reversed(messages[2:4])


def swap_for_all(sent, _):
    """All clients have the same order, which is not the order of the writers."""
    sent[3], sent[5] = (dataclasses.replace(sent[3], text=sent[5].text, topic=sent[5].topic),
                        dataclasses.replace(sent[5], text=sent[3].text, topic=sent[3].topic))


def begun_after(sent, _):
    sent[2].began = sent[3].ended + 0.1


def one_id_for_two(_, clients):
    clients[1].polls[1].messages[0] = ("a", cursor(5), "a7")


def again(_, clients):
    """The client gets the previous page again."""
    clients[0].polls[1].messages.insert(0, clients[0].polls[0].messages[-1])


def again_with_another_id(_, clients):
    clients[1].polls.append(answer({"a": cursor(11), "b": cursor(9)}, ["a14"], {"a": 14, "b": 9}))
    clients[1].polls[-1].messages = [("a", cursor(14), "a11")]


def rolled_back(sent, _):
    del sent[6]


def other_topic(_, clients):
    for client, page, place in (0, 1, 0), (1, 1, 1):
        _, message_id, text = clients[client].polls[page].messages[place]
        clients[client].polls[page].messages[place] = ("a", message_id, text)


def nobody_got_it(sent, clients):
    for client in clients:
        for poll in client.polls:
            poll.messages = [message for message in poll.messages if message[2] != "a7"]


def cursor_back(_, clients):
    clients[1].polls[1].next_since["a"] = cursor(2)


def cursor_too_far(_, clients):
    clients[1].polls[0].next_since = {"a": cursor(11), "b": cursor(9)}
    clients[1].polls[1] = answer({"a": cursor(3), "b": cursor(3)}, [], {"a": 11, "b": 9})


def false_gap(_, clients):
    clients[0].polls[1].gaps["a"] = {"reason": "expired", "requested": cursor(5), "oldest": cursor(7)}


def no_more(_, clients):
    clients[0].polls[1].has_more = True
    clients[0].polls[2].messages = []


def too_many(_, clients):
    clients[0].polls[0].limit = 2


def overtaken(_, clients):
    """A page and the previous one, of two topics, change places."""
    first, second = clients[0].polls[1], clients[0].polls[2]
    late = [message for message in first.messages if message[0] == "b"]
    first.messages = [message for message in first.messages if message[0] == "a"] + second.messages
    second.messages = late
    first.next_since, second.next_since = {"a": cursor(11), "b": cursor(3)}, {"a": cursor(11), "b": cursor(9)}
    second.since["a"], second.since["b"] = cursor(11), cursor(3)


def fewer_of_the_last(_, clients):
    clients.append(Reader(answer({"a": "-4", "b": "$"}, ["a8", "a10", "a11"], {"a": 11, "b": 9})))
    clients[-1].polls[0].began = 11.7
    clients[-1].polls[0].ended = 11.8


def never_ended(_, clients):
    clients[0].wanting = {"a"}


@pytest.mark.parametrize("kind, plant", [
    ("lost", without(0, 0, 0)), ("lost", without(0, 1, 2)), ("lost", without(1, 1, 0)), ("lost", without(1, 1, -1)),
    ("lost", nobody_got_it), ("lost", cursor_too_far), ("order", swap), ("order", swap_for_all), ("order", begun_after),
    ("order", overtaken),
    ("id", one_id_for_two), ("twice", again), ("id", again_with_another_id), ("phantom", rolled_back), ("phantom", other_topic),
    ("cursor", cursor_back), ("gap", false_gap), ("page", no_more), ("page", too_many), ("last", fewer_of_the_last), ("stuck", never_ended)])
def test_planted(sent, clients, kind, plant):
    plant(sent, clients)
    assert kind in kinds(sent, clients)


def test_overtaken_where_notifications_are_lost(sent, clients):
    """The order holds all the same."""
    overtaken(sent, clients)
    assert "order" in kinds(sent, clients, deaf=True)


def test_has_more_by_another_host(sent, clients):
    """Only a waiting poll may be answered with less than another host has delivered."""
    no_more(sent, clients)
    assert "page" not in kinds(sent, clients, several_hosts=True)
    clients[0].polls[2].timeout = 0
    assert "page" in kinds(sent, clients, several_hosts=True)


def expired(clients):
    """The second client polls again after all messages up to the eighth were pruned."""
    page = answer({"a": cursor(4), "b": cursor(3)}, ["b9", "a10", "a11"], {"a": 11, "b": 9})
    page.gaps = {topic: {"reason": "expired", "requested": cursor(4), "oldest": cursor(9)} for topic in TOPICS}
    clients[1].polls[1] = page
    return page


def test_pruned(sent, clients):
    expired(clients)
    assert Check(sent, clients, pruned=True).complaints == []
    assert "gap" in kinds(sent, clients)


def test_everything_that_is_kept(sent, clients):
    """A read with cursor "0" has no gap. A read from the cursor of a topic that had no message yet has one."""
    page = expired(clients)
    page.gaps, page.since = {}, {"a": "0", "b": "0"}
    assert Check(sent, clients, pruned=True).complaints == []
    page.since["a"] = cursor(0)
    assert kinds(sent, clients, pruned=True) == {"lost"}


def test_a_gap_that_is_not_reported(sent, clients):
    del expired(clients).gaps["a"]
    assert kinds(sent, clients, pruned=True) == {"lost"}


def test_a_gap_without_pruned_messages(sent, clients):
    page = expired(clients)
    page.messages = clients[0].polls[1].messages[:3] + page.messages
    page.messages.insert(0, clients[0].polls[0].messages[4])
    assert kinds(sent, clients, pruned=True) == {"gap"}


def gap_between(clients, number, page):
    poll = clients[number].polls[page]
    poll.gaps["a"] = {"reason": "expired", "requested": poll.since["a"], "oldest": cursor(8)}


def test_pruned_before_anybody_had_it(sent, clients):
    """Its position is not known, but that it is between those of two others."""
    nobody_got_it(sent, clients)
    gap_between(clients, 0, 1)
    gap_between(clients, 1, 1)
    assert Check(sent, clients, pruned=True, unread=True).complaints == []
    assert kinds(sent, clients, pruned=True) == {"lost", "gap"}


def test_pruned_before_anybody_had_it_and_no_gap_is_reported(sent, clients):
    nobody_got_it(sent, clients)
    gap_between(clients, 0, 1)
    assert kinds(sent, clients, pruned=True, unread=True) == {"lost"}


def test_a_gap_where_nothing_is_missing(sent, clients):
    nobody_got_it(sent, clients)
    for number, page in (0, 1), (1, 1), (0, 2):
        gap_between(clients, number, page)
    assert kinds(sent, clients, pruned=True, unread=True) == {"gap"}


@pytest.mark.parametrize("began, ended, options, slept", [
    (4.6, 20, {}, True), (11.6, 12, {}, False), (4.6, 8.4, {}, False), (4.6, 9, {}, True), (4.6, 20, {"disturbed": [(5, 13)]}, False),
    (4.6, 20, {"disturbed": [(5, 6)]}, True), (4.6, 9, {"outages": [("database", 6, 7)]}, False)])
def test_a_poll_that_was_not_woken(sent, clients, began, ended, options, slept):
    poll = clients[1].polls[1]
    poll.timeout, poll.began, poll.ended = 20, began, ended
    assert kinds(sent, clients, wake_s=3, **options) == ({"slept"} if slept else set())
    poll.messages, poll.next_since = [], {"a": cursor(4), "b": cursor(3)}
    assert kinds(sent, clients, wake_s=3, **options) == ({"slept"} if slept else set())


def test_a_client_that_leaves_topics_and_takes_them_up_again(sent, clients):
    first, second = clients[0].polls[:2]
    messages = first.messages + second.messages
    for poll, topic in (first, "a"), (second, "b"):
        poll.topics, poll.messages = [topic], [message for message in messages if message[0] == topic]
        poll.next_since = {topic: cursor(9)}
    second.since = {"b": "0"}
    assert kinds(sent, clients) == {"order"}
    clients[0].roams = True
    assert Check(sent, clients).complaints == []


@pytest.fixture
def restored(sent, clients):
    """The database is restored to its state after the eighth message. a11 is published again as a21, and a22 is new. The first client is ahead,
    the second polls from now on, the third reads all that is left."""
    sent.append(Sent("odd", "a", "a22", 22, 22.5))
    left = {"a1", "a2", "b3", "a4", "a5", "b6", "a7", "a8", "a11", "a22"}
    ahead = answer({"a": cursor(11), "b": cursor(9)}, [], {"a": 8, "b": 6})
    ahead.gaps = {topic: {"reason": "ahead", "requested": cursor(11), "oldest": cursor(1)} for topic in TOPICS}
    again = answer({"a": cursor(8), "b": cursor(6)}, ["a21", "a22"], {"a": 22, "b": 6})
    again.messages[0] = ("a", cursor(21), "a11")
    clients[0].polls += [ahead, again]
    clients[1].polls[1] = dataclasses.replace(again, since={"a": cursor(4), "b": cursor(3)},
                                              messages=clients[0].polls[0].messages[4:] + clients[0].polls[1].messages[:3] + again.messages)
    everything = [message for poll in clients[0].polls[:2] for message in poll.messages][:8] + again.messages
    clients.append(Reader(dataclasses.replace(again, since={"a": "0", "b": "0"}, messages=everything)))
    return left


def test_restored(sent, clients, restored):
    assert Check(sent, clients, survivors=restored).complaints == []


def test_restored_and_a_message_is_missing(sent, clients, restored):
    clients[0].polls[-1].messages = []
    assert kinds(sent, clients, survivors=restored) == {"lost"}


def test_restored_and_no_gap_is_reported(sent, clients, restored):
    """The positions of the restored database are below the client's cursor, and no gap is reported."""
    clients[0].polls[-2:] = [answer({"a": cursor(11), "b": cursor(9)}, [], {"a": 22, "b": 9})]
    assert kinds(sent, clients, survivors=restored) == {"lost"}


def failed(status, began=10.0, ended=11.5, **more):
    return [Reader(Poll(TOPICS, {}, 100, 1, began, ended, status, **more))]


@pytest.mark.parametrize("client, outages, kills, fine", [
    (failed(503, retry_after="1"), [("database", 9, 12)], 0, True),
    (failed(503), [("database", 9, 12)], 0, False),                             # without Retry-After
    (failed(503, retry_after="1"), [("database", 5, 8)], 0, False),             # the database was back in time
    (failed(503, retry_after="1"), [("database", 12, 15)], 0, False),
    (failed(503, retry_after="1"), [("web", 9, 12)], 0, False),
    (failed(500), [], 1, True), (failed("cut"), [], 1, True), (failed(500) * 2, [], 1, False),
    (failed(500), [("database", 9, 12)], 0, False), (failed(503, retry_after="1"), [("worker", 9, 11)], 0, True),
    (failed("cut"), [("web", 11, 12)], 0, True), (failed("cut"), [("web", 5, 8)], 0, False),
    (failed(422), [], 1, False), (failed(200, ended=30.0), [], 0, False), (failed("left"), [], 0, True)])
def test_failures(client, outages, kills, fine):
    assert (check_failures(client, outages, kills) == []) == fine
