"""What a history of a site has cost its clients, and the table of all histories."""
import collections
import dataclasses
import re

from history import Check

ROWS = []
HEAD = ["what happens", "lost", "doubled", "reordered", "polls", "failed polls", "latest answer, s", "first delivery, s (web1, web2)"]
# Answers that are no error: messages or none, and a client that left by itself.
ANSWERED = (200, "left")


@dataclasses.dataclass
class Outcome:
    """doubled_early: of the doubled, those that were published more than a second before the fault. errors: polls by HTTP status, or "cut" for
    those that failed otherwise. latest: how many seconds after its timeout a poll ended. first: by host, the seconds from the fault to the first
    answer with a message that was published after it. complaints: those of Check, and of polls that were refused before their time."""
    name: str
    lost: int
    doubled: int
    doubled_early: int
    reordered: int
    polls: int
    errors: dict
    latest: float
    first: dict
    complaints: list

    def row(self):
        errors = ", ".join(f"{count} × {'cut off' if status == 'cut' else status}" for status, count in self.errors.items())
        first = ", ".join("never" if seconds is None else f"{seconds:.1f}" for seconds in self.first.values())
        return [self.name, self.lost, self.doubled, self.reordered, self.polls, errors or 0, f"{self.latest:.1f}", first]


def table():
    if ROWS:
        yield ""
        for row in [HEAD, ["---"] * len(HEAD), *(outcome.row() for outcome in ROWS)]:
            yield "| " + " | ".join(map(str, row)) + " |"


def doubled(client):
    """Returns the texts that a client got again."""
    texts = collections.Counter(text for poll in client.polls for _, _, text in poll.messages)
    return list((texts - collections.Counter(set(texts))).elements())


def reordered(client, sent):
    """Returns how many messages a client got after one that their writer wrote later to the same database."""
    newest, count, seen = collections.defaultdict(int), 0, set()
    for poll in client.polls:
        for _, _, text in poll.messages:
            if text in seen or text not in sent or not (number := re.fullmatch(r".*:(\d+)", text)):
                continue
            seen.add(text)
            count += int(number[1]) < newest[sent[text].writer]
            newest[sent[text].writer] = max(newest[sent[text].writer], int(number[1]))
    return count


def first_delivery(clients, sent, host, since, done):
    """Returns the seconds from since until a host delivered a message whose INSERT began after done, or None."""
    return min((poll.ended - since for client in clients for poll in client.polls if poll.host == host
                and any(text in sent and sent[text].began > done for _, _, text in poll.messages)), default=None)


def is_hasty(poll):
    """Whether pgpoll refused a poll before its time was over, and so did not hold it until the database may have been back. (What HAProxy answers
    by itself is no JSON.)"""
    return poll.status == 503 and poll.said.startswith("{") and poll.ended - poll.began < poll.timeout


def judge(name, load, hosts, since, done, survivors=None):
    """hosts: their addresses, by name. since, done: when the fault began and was complete, by name. survivors: the texts that are left, where
    the database itself lost some."""
    sent = {sent.text: sent for sent in load.sent}
    complaints = Check(load.sent, load.clients, load.outages, several_hosts=True, survivors=survivors).complaints
    polls = [poll for client in load.clients for poll in client.polls]
    complaints += [f"hasty: {poll.host} refused a poll after {poll.ended - poll.began:.2f} of {poll.timeout} s" for poll in polls if is_hasty(poll)]
    twice = [text for client in load.clients for text in doubled(client)]
    early = [text for text in twice if text in sent and sent[text].began < min(since.values()) - 1]
    outcome = Outcome(name, sum(complaint.startswith(("lost", "stuck")) for complaint in complaints),
                      len(twice), len(early), sum(reordered(client, sent) for client in load.clients), len(polls),
                      dict(collections.Counter(poll.status for poll in polls if poll.status not in ANSWERED)),
                      max(poll.ended - poll.began - poll.timeout for poll in polls),
                      {host: first_delivery(load.clients, sent, url, since[host], done[host]) for host, url in hosts.items()}, complaints)
    ROWS.append(outcome)
    began = min(done.values())
    for poll in sorted((poll for poll in polls if poll.status not in ANSWERED), key=lambda poll: poll.ended):
        print(f"{poll.host}: {poll.status} {poll.said} at {poll.ended - began:.2f} after {poll.ended - poll.began:.2f} of {poll.timeout} s")
    first_commit = min((one.ended - began for one in load.sent if one.began > began), default=None)
    print(f"{len(sent)} messages, the first after the fault committed after {first_commit} s: {outcome}")
    return outcome
