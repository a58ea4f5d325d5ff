"""The other process of a handoff in the tests: ``far_end.py sender|receiver ADDRESS [whole]``.

Gets into the middle of a transfer, or all the way with ``whole``, and stays there until it is killed.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from kv_world import LAYOUT, Store

from kv_transfer import Granted, Landed, Limits, Receiver, Reserved, Sender, open_receiver, open_sender

TOKENS = 4096  # 64 KiB: large enough for the ring


def main(role: str, address: str, whole: bool) -> None:
    end = _sender(address) if role == "sender" else _receiver(address)
    while True:
        now = time.monotonic()
        for event in end.poll(now):
            match event:
                case Granted(transfer):
                    end.publish(transfer, np.arange(TOKENS), TOKENS if whole else TOKENS // 2)
                    if whole:
                        end.commit(transfer, b"first", now)
                case Reserved(transfer, num_tokens=tokens):
                    end.grant(transfer, 0, np.arange(tokens))
                case Landed(transfer):
                    end.adopt(transfer)
        time.sleep(0.001)


def _sender(address: str) -> Sender:
    end = Sender(open_sender(), Store(TOKENS, seed=7), LAYOUT, "far-p")
    end.reserve(address, TOKENS, b"who", 60.0, time.monotonic())
    return end


def _receiver(address: str) -> Receiver:
    end = Receiver(open_receiver(address), Store(TOKENS), LAYOUT, "far-d", Limits())
    print(end.address, flush=True)
    return end


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:] == ["whole"])
