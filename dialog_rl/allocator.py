"""Give freed memory back to the system between the stages of a run.

glibc keeps what a program frees for its next allocation. After a forward pass over thousands of
tokens that can be more than the weights, and the next stage, whose tensors have other sizes, does
not fit into the holes.
"""

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect garbage, and return freed pages to the system.

    Trainers and their callbacks hold one another: nothing but the collector frees them. The second
    half does nothing where the C library is not glibc.
    """
    gc.collect()
    if not sys.platform.startswith("linux"):
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:  # musl has no such function
        return
    trim(0)
