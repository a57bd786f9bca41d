"""Batches prepared one ahead in a background thread."""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

Batch = tuple[list[int], torch.Tensor]


def prefetch(
    make: Callable[[int], torch.Tensor], positions: Sequence[int], batch_size: int
) -> Generator[Batch, None, None]:
    """Yield (positions, tensor (b, ...)) over `positions` in order; the last batch may be smaller.

    One thread makes the next batch while the caller works on this one, so two batches exist at a time. What
    `make` raises is raised here. The thread ends with the generator: when it is exhausted, closed, or left
    by an exception.

    >>> import torch
    >>> [(p, t.tolist()) for p, t in prefetch(lambda i: torch.tensor(i * i), range(3), 2)]
    [([0, 1], [0, 1]), ([2], [4])]
    """
    stopped = threading.Event()
    chunks = [list(positions[start : start + batch_size]) for start in range(0, len(positions), batch_size)]

    def prepare(chunk: list[int]) -> Batch | None:
        tensors = []
        for position in chunk:
            if stopped.is_set():
                return None
            tensors.append(make(position))
        return chunk, torch.stack(tensors)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="diffsens-batches") as pool:
        try:
            ahead: Future[Batch | None] | None = pool.submit(prepare, chunks[0]) if chunks else None
            for following in [*chunks[1:], None]:
                batch = ahead.result() if ahead else None
                ahead = pool.submit(prepare, following) if following else None
                if batch is not None:
                    yield batch
        finally:
            stopped.set()
