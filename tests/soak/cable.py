"""A slow and lossy cable between two network namespaces:  cable.py NAMESPACE DEVICE NAMESPACE DEVICE DELAY_MS LOSS

It makes a TAP device at either end, and passes every frame on after the delay, except a part of them that is lost (LOSS, 0 to 1). (The
kernel's netem does the same, but not every kernel has it.)"""
import collections
import fcntl
import os
import random
import select
import struct
import sys
import time

from network import NAMESPACES, enter

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME = 65536


def open_tap(namespace, device):
    enter(NAMESPACES / namespace)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def receive(tap, frames, due, loss):
    try:
        while frame := os.read(tap, FRAME):
            if random.random() >= loss:
                frames.append((due, frame))
    except BlockingIOError:
        pass


def pass_on(frames, tap):
    while frames and frames[0][0] <= time.monotonic():
        try:
            os.write(tap, frames.popleft()[1])
        except OSError:     # the device is not up
            pass


def main():
    delay, loss = float(sys.argv[5]) / 1000, float(sys.argv[6])
    taps = [open_tap(*sys.argv[1:3]), open_tap(*sys.argv[3:5])]
    others = dict(zip(taps, reversed(taps)))
    frames = {tap: collections.deque() for tap in taps}     # received from this one: (when to pass on, frame)
    print("connected", flush=True)
    while True:
        dues = [queue[0][0] for queue in frames.values() if queue]
        wait = max(min(dues) - time.monotonic(), 0) if dues else None
        for tap in select.select(taps, [], [], wait)[0]:
            receive(tap, frames[tap], time.monotonic() + delay, loss)
        for tap, queue in frames.items():
            pass_on(queue, others[tap])


if __name__ == "__main__":
    main()
