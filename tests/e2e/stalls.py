"""When the machine stood still. A poll that does not wait is refused (503, Retry-After) if the database does not answer within a second;
then that says nothing about pgpoll."""
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
    """Whether it did, between then and now."""
    now = time.monotonic()
    time.sleep(0.1)     # so that a stall that is just over is known
    return any(ended >= since and began <= now for began, ended in stalls)


def again_after_a_stall(ask, is_refused):
    """What ask() returns; if that is a refusal and the machine stood still meanwhile, it is asked again, as clients are told to."""
    while True:
        began = time.monotonic()
        answer = ask()
        if not is_refused(answer) or not stood_still(began):
            return answer
