"""Batches prepared one ahead in background threads."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from timm_diffsens.device import threads

Batch = tuple[list[int], torch.Tensor]
Item = TypeVar("Item")

# Threads that read images: the network has the other half of the cores, if it runs on them.
READERS = max(1, min(8, (os.cpu_count() or 1) // 2))


def prefetch(
    make: Callable[[int], torch.Tensor], positions: Sequence[int], batch_size: int, readers: int = 1
) -> Generator[Batch, None, None]:
    """Yield (positions, tensor (b, ...)) over `positions` in order; the last batch may be smaller.

    Threads make the next batch while the caller works on this one, so two batches exist at a time. What
    `make` raises is raised here. The threads end with the generator: when it is exhausted, closed, or left
    by an exception. One reader makes the images in order.

    >>> import torch
    >>> [(p, t.tolist()) for p, t in prefetch(lambda i: torch.tensor(i * i), range(3), 2)]
    [([0, 1], [0, 1]), ([2], [4])]
    """
    chunks = [list(positions[start : start + batch_size]) for start in range(0, len(positions), batch_size)]
    with threads.helpers(readers, "batches") as pool:
        ahead = [pool.submit(make, position) for chunk in chunks[:1] for position in chunk]
        try:
            for chunk, following in zip(chunks, [*chunks[1:], []], strict=True):
                made = [future.result() for future in ahead]
                ahead = [pool.submit(make, position) for position in following]
                yield chunk, torch.stack(made)
        finally:
            for future in ahead:
                future.cancel()


def one_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The items of an iterator, each made in a thread while the caller works on the one before.

    Unlike those of `threads.helpers` the thread has all the cores: the caller is to work elsewhere.

    >>> list(one_ahead(iter("ab")))
    ['a', 'b']
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="diffsens-ahead") as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
