"""What a process settles before it imports torch, and the memory it gives back between stages.

glibc keeps what a program frees for its next allocation. After a forward pass over thousands of
tokens that can be more than the weights, and the next stage, whose tensors have other sizes, does
not fit into the holes.
"""

import ctypes
import gc
import os

_M_ARENA_MAX = -8
"""glibc's malloc.h."""
_PRIMITIVES = "64"
"""Kernels that oneDNN keeps for the shapes it has met (its own default is 1024). Batches have ever
new shapes; in bfloat16 the bundled model's run kept 300 MB of kernels that were not used again."""

_SPINS = "3000"
"""Turns of libgomp's waiting loop before a thread sleeps, some tens of microseconds."""


def settle() -> None:
    """Let idle threads sleep, and let all threads share one heap.

    Threads that spin while they wait make a training and a chat on the same cores slow each other
    ten times; to sleep between the products of a decode step, microseconds apart, costs a third of
    the step. So they spin for some microseconds, then sleep. By default glibc gives each thread a
    heap of its own, which keeps what it has freed: a quarter more memory in PPO, and no gain in
    time.
    """
    if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE").upper() == "PASSIVE":
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _PRIMITIVES)
    _glibc("mallopt", _M_ARENA_MAX, 1)


def give_back() -> None:
    """Collect garbage, and return freed pages to the system.

    Trainers and their callbacks hold one another: nothing but the collector frees them.
    """
    gc.collect()
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    """Call a function of glibc; does nothing where the C library is another."""
    try:
        call = getattr(ctypes.CDLL(None), function)
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    call(*arguments)
