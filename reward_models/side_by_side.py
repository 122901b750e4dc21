"""Independent pieces of work side by side on the processor's cores.

A small model's products are too small to be shared out among cores: threads wait for one another
between them. Whole passes, each with a thread of its own, do not.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


def side_by_side(tasks: Sequence[Callable[[], _Result]], *, at_once: bool = True) -> list[_Result]:
    """Run tasks at once, sharing torch's threads out among them; results in the order of tasks.

    A task must not change what another reads, and enters ``no_grad`` itself: that is a property of
    a thread. The first error is raised once all tasks have ended.

    Args:
        tasks: called without arguments.
        at_once: False runs them one after another: on a GPU, which one task fills, several would
            only need their memory together.

    >>> side_by_side([lambda: 1, lambda: 2])
    [1, 2]
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(tasks)) if at_once else 1
    if workers < 2:
        return [task() for task in tasks]
    each = threads // workers
    try:
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(each,)
        ) as pool:
            return list(pool.map(lambda task: task(), tasks))
    finally:
        torch.set_num_threads(threads)  # the workers' setting reaches parts of torch in all threads
