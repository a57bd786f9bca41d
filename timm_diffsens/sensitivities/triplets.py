"""Images -> batches of clean, deformed and noised images, on their way to the network."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch

from timm_diffsens.data.batches import one_ahead
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.noise import corrupt, matched_noise
from timm_diffsens.perturb.pixels import Deformation
from timm_diffsens.perturb.streams import streams

Batch = tuple[Sequence[int], torch.Tensor]  # indices of the images (their random streams), (n, c, h, w)

_KEPT = 2**25  # bytes of triplets kept for other variants: 900 images of 32 x 32


@dataclass(frozen=True)
class Protocol:
    """How images are moved: the deformation, the corruption and the seed."""

    diffeo: Deformation = field(default_factory=Diffeo)
    corruption: float = 0.0
    seed: int = 0


def corrupted(images: torch.Tensor, indices: Sequence[int], protocol: Protocol) -> torch.Tensor:
    """Images with the noise that is fixed for each of them (Fig. 1 right)."""
    return corrupt(images, protocol.corruption, streams(protocol.seed, "corruption", indices))


def triplets(
    clean: torch.Tensor,
    indices: Sequence[int],
    protocol: Protocol,
    layout: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """(n, c, h, w) -> (3 n, c, h, w): clean, deformed, noised, each image with streams of its own.

    Args:
        clean: the images.
        indices: of their streams.
        protocol: how they are moved.
        layout: of the result.
    """
    n = len(clean)
    layout = layout if clean.ndim == 4 else torch.contiguous_format
    whole = torch.empty(
        (3 * n, *clean.shape[1:]), dtype=clean.dtype, device=clean.device, memory_format=layout
    )
    into = whole.chunk(3) if n else (whole,) * 3

    moved = protocol.diffeo(clean, streams(protocol.seed, "diffeo", indices))
    noise = matched_noise(clean, moved, streams(protocol.seed, "noise", indices))
    for part, made in zip(into, (clean, moved, noise.add_(clean)), strict=True):
        part.copy_(made)
    return whole


def moved_batches(
    batches: Iterator[Batch], protocol: Protocol, like: torch.Tensor, layout: torch.memory_format
) -> Generator[Batch, None, None]:
    """(indices, triplets) of each batch, of the type and on the device of `like`, a parameter.

    For another device the next batch is drawn, and on its way there, while the caller works on this one. On
    the CPU, where the network has all the cores already, all of them draw each batch in its turn.
    """

    def moved() -> Iterator[Batch]:
        for indices, images in batches:
            images = images.to(like.dtype if like.is_floating_point() else images.dtype)
            triple = triplets(corrupted(images, indices, protocol), indices, protocol, layout)
            yield indices, triple.pin_memory() if like.device.type == "cuda" else triple

    if like.device.type == "cpu":
        yield from moved()
        return
    with closing(one_ahead(moved())) as coming:
        for indices, triple in coming:
            yield indices, triple.to(like.device, non_blocking=True)


class Drawn:
    """Triplets of small images, kept from the first pass over them for the others: variants share them.

    Up to `limit` bytes in all; beyond it nothing is kept, and each pass draws its own: memory does not
    grow with the number of images. Batches of another size, layout, type or device are drawn anew, and so are
    those that a network has written into.
    """

    def __init__(self, limit: int = _KEPT) -> None:
        self.limit = limit
        self._batches: list[Batch] = []
        self._key: tuple[object, ...] | None = None  # of what is kept, once all of it is

    def batches(
        self,
        source: Callable[[int], Iterator[Batch]],
        size: int,
        protocol: Protocol,
        like: torch.Tensor,
        layout: torch.memory_format,
    ) -> Generator[Batch, None, None]:
        """`moved_batches` of `source(size)`, or what was kept of them."""
        key = (size, layout, like.dtype, like.device)
        if key == self._key:
            yield from self._untouched(self._batches)
            return
        self._batches, self._key, fits = [], None, True
        for batch in self._untouched(moved_batches(source(size), protocol, like, layout)):
            fits = fits and sum(t.nbytes for _, t in [*self._batches, batch]) <= self.limit
            self._batches = [*self._batches, batch] if fits else []
            yield batch
        if fits and self._batches:
            self._key = key

    def _untouched(self, batches: Iterable[Batch]) -> Generator[Batch, None, None]:
        """The same batches; one that was written into while it was out, or never came back, spoils all."""
        sound = True
        try:
            for batch in batches:
                out, sound, version = sound, False, batch[1]._version
                yield batch
                sound = out and batch[1]._version == version
        finally:
            if not sound:
                self._batches, self._key = [], None


def with_layout(images: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """Images (n, c, h, w) in that layout; others as they are."""
    return images.contiguous(memory_format=layout) if images.ndim == 4 else images
