"""The other process of a handoff by NIXL: ``nixl_far.py sender|receiver ADDRESS``. It goes on until it is
killed, one transfer after the other.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from kv_world import LAYOUT, Store

from kv_transfer import Done, Granted, Landed, Receiver, Reserved, Sender, open_receiver, open_sender

TOKENS = 1 << 21  # 32 MiB, of which half may be under way
SECRET = b"s" * 32


def sender(address: str) -> None:
    end = Sender(open_sender(SECRET), Store(TOKENS, seed=7), LAYOUT, "far-p")
    end.reserve(address, TOKENS, b"who", 60.0, time.monotonic())
    while True:
        now = time.monotonic()
        for event in end.poll(now):
            match event:
                case Granted(transfer):
                    end.publish(transfer, np.arange(TOKENS), TOKENS)
                    end.commit(transfer, b"first", now)
                case Done():
                    end.reserve(address, TOKENS, b"who", 60.0, now)
        time.sleep(0.0005)


def receiver(address: str) -> None:
    end = Receiver(open_receiver(address, SECRET), Store(TOKENS), LAYOUT, "far-d")
    print(end.address, flush=True)
    while True:
        for event in end.poll(time.monotonic()):
            match event:
                case Reserved(transfer, num_tokens=tokens):
                    end.grant(transfer, 0, np.arange(tokens))
                case Landed(transfer):
                    end.adopt(transfer)
        time.sleep(0.0005)


if __name__ == "__main__":
    {"sender": sender, "receiver": receiver}[sys.argv[1]](sys.argv[2])
