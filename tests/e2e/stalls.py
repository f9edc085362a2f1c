"""Records when the machine stood still, or its disk. A poll that does not wait gets 503 with Retry-After if the database does not answer within a
second. If the machine stood still meanwhile, that is no fault of pgpoll."""
import pathlib
import re
import threading
import time

PRESSURE = pathlib.Path("/proc/pressure/io")    # not on every kernel
stalls = []     # from, to


def waited_s():
    """For how long processes have waited for the disk so far, in seconds."""
    return int(re.search(r"^some .*total=(\d+)", PRESSURE.read_text(), re.M)[1]) / 1e6 if PRESSURE.exists() else 0


def watch():
    """The disk stood still if processes waited for it for most of half a second. This process need not be one of them."""
    window = [(time.monotonic(), waited_s())]
    while True:
        time.sleep(0.05)
        (before, _), (began, waited) = window[-1], window[0]
        window.append((time.monotonic(), waited_s()))
        now, so_far = window[-1]
        if now - before > 0.3:
            stalls.append((before, now))
        if so_far - waited > 0.3:
            stalls.append((began, now))
        window = [sample for sample in window if now - sample[0] < 0.5]


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
