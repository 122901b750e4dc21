"""What a process must settle before it imports torch."""

import ctypes
import os

_M_ARENA_MAX = -8
"""glibc's malloc.h."""
_PRIMITIVES = "64"
"""Kernels that oneDNN keeps for the shapes it has met (its own default is 1024). Batches have ever
new shapes; in bfloat16 the bundled model's run kept 300 MB of kernels that were not used again."""


def settle() -> None:
    """Let idle threads sleep, and let all threads share one heap.

    Threads that spin while they wait make a training and a chat on the same cores slow each other
    ten times. By default glibc gives each thread a heap of its own, which keeps what it has freed:
    a quarter more memory in PPO, and no gain in time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _PRIMITIVES)
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except (AttributeError, OSError, TypeError):
        return  # not glibc: nothing to set
