"""The steps of an epoch: what is drawn for them, and the gradients of a batch, as written or replayed.

Order and augmentation are drawn on the CPU from the recipe's seed, so they are the same on every device, and
go to the device once an epoch. Loss and errors are summed there, and read once an epoch.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn

from timm_diffsens.device import seeding
from timm_diffsens.errors import warn
from timm_diffsens.train.data import Images, augmented, draw_augmentation
from timm_diffsens.train.objective import loss_of, wrong_answers
from timm_diffsens.train.recipe import Recipe

WARM_UP = 3  # whole batches before the capture: what is made at first use, and chosen, is then there

Gradients = Callable[[torch.Tensor], None]  # of a batch
Compute = Callable[[], None]
Capture = Callable[[Compute], Compute]  # runs nothing; what it returns does it, on the same memory


def draw_epoch(images: int, recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    """(n, 1): the images in their order; with augmentation (n, 4): also what is drawn for each of them.

    Batches follow one another. A last one of a single image is left out: it has no spread for a batch-norm.
    """
    size = recipe.batch_size or 1
    order = rng.permutation(images)[:, None]
    batches = [order[start : start + size] for start in range(0, images, size)]
    if len(batches[-1]) < min(2, size, images):
        batches.pop()
    if recipe.augment:
        batches = [np.hstack([rows, draw_augmentation(len(rows), rng)]) for rows in batches]
    return torch.from_numpy(np.concatenate(batches))


class Steps:
    """Steps of one network on its training images.

    Args:
        module: the network. images: on its device.
        recipe: how.
        capture: what makes of a computation one that is replayed, on CUDA `capture_graph`; None: every
            step runs as it is written.
    """

    def __init__(self, module: nn.Module, images: Images, recipe: Recipe, capture: Capture | None) -> None:
        self.module, self.images, self.recipe, self.capture = module, images, recipe, capture
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.totals = torch.zeros(2, dtype=torch.float64, device=images.y.device)  # loss and wrong answers
        self.in_epoch = 0  # steps of the last one
        self.seen = 0  # whole batches, up to the capture
        self.replayed: _Replayed | None = None

    def epoch(self, optimizer: torch.optim.Optimizer, rng: np.random.Generator) -> tuple[float, float]:
        """All steps of an epoch: mean loss and share of wrong answers over it."""
        draws = draw_epoch(len(self.images), self.recipe, rng).to(self.images.x.device)
        self.totals.zero_()
        batches = torch.split(draws, self.recipe.batch_size or 1)
        self.in_epoch = len(batches)
        for batch in batches:
            self._gradients(batch)
            optimizer.step()
        loss, wrong = self.totals.tolist()
        return loss / len(draws), wrong / len(draws)

    def _gradients(self, batch: torch.Tensor) -> None:
        if self.capture is None or len(batch) < (self.recipe.batch_size or 1):
            self._compute(batch)
        elif self.seen < WARM_UP:
            self.seen += 1
            if why := _why_not(partial(self._compute, batch)):
                self._as_written(why)
        else:
            self.replayed = self.replayed or self._captured(batch, self.capture)
            (self.replayed or self._compute)(batch)

    def _compute(self, batch: torch.Tensor) -> None:
        """Gradients of the mean loss of a batch, in place of those before; nothing waits for the device."""
        x, y = self.images.x[batch[:, 0]], self.images.y[batch[:, 0]]
        if self.recipe.augment:
            x = augmented(x, batch[:, 1:])
        if x.is_cuda:  # on the CPU as they were read: there kept checkpoints are made again to the bit
            x = x.contiguous(memory_format=self.layout)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.amp):
            outputs = self.module(x).float()
        loss = loss_of(outputs, y, self.recipe)
        self.module.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.totals[0] += loss.detach() * len(batch)
            self.totals[1] += wrong_answers(outputs, y).sum()

    def _captured(self, batch: torch.Tensor, capture: Capture) -> "_Replayed | None":
        try:
            return _Replayed(self._compute, batch, self.module, capture)
        except RuntimeError as error:
            self._as_written(str(error).partition("\n")[0])
            return None

    def _as_written(self, why: str) -> None:
        self.capture = None
        warn(f"{self.recipe.model}: steps are not replayed as a CUDA graph, which is slower: {why}")


class _Replayed:
    """A computation of gradients that was captured once, for batches of one size."""

    def __init__(self, compute: Gradients, batch: torch.Tensor, module: nn.Module, capture: Capture) -> None:
        self.batch = batch.clone()  # a capture reads and writes the same memory each time
        self.replay = capture(partial(compute, self.batch))
        self.gradients = [(parameter, parameter.grad) for parameter in module.parameters()]

    def __call__(self, batch: torch.Tensor) -> None:
        self.batch.copy_(batch)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient  # a smaller batch, computed as written, has put others there
        self.replay()


def capture_graph(compute: Compute) -> Compute:
    """A computation on the current CUDA stream, which is not the default one, as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        compute()
    return graph.replay


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On CUDA another stream than the default one, which cannot be captured; in order with what is around."""
    if device.type != "cuda":
        yield
        return
    around = torch.cuda.current_stream(device)
    inside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    inside.wait_stream(around)
    try:
        with torch.cuda.stream(inside):
            yield
    finally:
        around.wait_stream(inside)


def _why_not(compute: Compute) -> str | None:
    """Compute, and say why it cannot be replayed: what the host does in it, a replay does not.

    A capture that fails need not leave the random streams in order, so it is not just tried.
    """
    before, cuda = seeding.host_random_state(), torch.cuda.is_available()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            compute()
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")
    if seeding.host_random_state() != before:
        return "the network draws random numbers on the host"
    waits = any("synchronizing CUDA operation" in str(each.message) for each in found)
    return "the host waits for the device in it" if waits else None
