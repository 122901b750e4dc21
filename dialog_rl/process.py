"""What a process must settle before it imports torch."""

import ctypes
import os

_M_ARENA_MAX = -8
"""glibc's malloc.h."""


def settle() -> None:
    """Let idle threads sleep, and let all threads share one heap.

    Threads that spin while they wait make a training and a chat on the same cores slow each other
    ten times. By default glibc gives each thread a heap of its own, which keeps what it has freed:
    a quarter more memory in PPO, and no gain in time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except (AttributeError, OSError, TypeError):
        return  # not glibc: nothing to set
