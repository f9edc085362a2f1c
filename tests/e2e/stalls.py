"""Records when the machine stood still. A poll that does not wait gets 503 with Retry-After if the database does not answer within a second. If
the machine stood still meanwhile, that is no fault of pgpoll."""
import threading
import time

stalls = []     # from, to


def watch():
    while True:
        began = time.monotonic()
        time.sleep(0.05)
        if time.monotonic() - began > 0.3:
            stalls.append((began, time.monotonic()))


threading.Thread(target=watch, daemon=True).start()


def stood_still(since):
    """Whether the machine stood still since then."""
    now = time.monotonic()
    time.sleep(0.1)     # so that a stall that has just ended is recorded
    return any(ended >= since and began <= now for began, ended in stalls)


def again_after_a_stall(ask, is_refused):
    """Returns what ask() returns. If that is a 503 and the machine stood still meanwhile, asks again, as clients are told to."""
    while True:
        began = time.monotonic()
        answer = ask()
        if not is_refused(answer) or not stood_still(began):
            return answer
