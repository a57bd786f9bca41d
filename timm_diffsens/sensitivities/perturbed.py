"""Images -> batches of clean, deformed and noised images, on their way to the network."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch

from timm_diffsens.data.batches import one_ahead
from timm_diffsens.data.scale import check_scale, refuse_array
from timm_diffsens.device.precision import exact
from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.deformation import Deformation
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.limit import direction, displacement_of
from timm_diffsens.perturb.noise import Noise, corrupt, matched_noise
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.registry import is_built_in, name_of
from timm_diffsens.sensitivities.outside import called, check_alike, check_unwritten

Batch = tuple[Sequence[int], torch.Tensor]  # indices of the images (their random streams), (n, c, h, w)
Batches = Callable[[int], Iterator[Batch]]  # batch size -> batches; each call begins anew

# Bilinear weights add up to one within two units in the last place, so that a flat image is changed by that.
_ROUNDING_UNITS = 4
_TRIED = 4  # images on which code from outside is tried twice
KEPT = 2**25  # bytes of parts kept for the other variants of a network: 900 images of 32 x 32


@dataclass(frozen=True)
class Perturbation:
    """How images are perturbed; each image has random streams of its own, made from the seed.

    A batch has 1 + 2 K equal parts for K deformations: clean, deformed 1, noised 1, ..., noised K. Each
    deformation draws from the same streams, so that those of one family and several sizes are the same draws
    scaled; so is the noise, which is drawn once.

    Attributes:
        deformations: each is images, generators -> deformed images.
        noise: clean images, deformed images, generators -> what is added to the clean ones; for noise of
            any norm see `perturb.noise.of_matched_norm`.
        corruption: standard deviation of the noise that is fixed for each image (Fig. 1 right).
        seed: of all of them.
    """

    deformations: tuple[Deformation, ...] = field(default_factory=lambda: (Diffeo(),))
    noise: Noise = matched_noise
    corruption: float = 0.0
    seed: int = 0

    def corrupted(self, images: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
        """Images (n, ...) with the noise that is fixed for each of them."""
        with exact(images.device):
            return corrupt(images, self.corruption, self._streams("corruption", indices))

    def parts(
        self,
        clean: torch.Tensor,
        indices: Sequence[int],
        layout: torch.memory_format = torch.contiguous_format,
    ) -> torch.Tensor:
        """Clean, deformed and noised images: (n, c, h, w) -> ((1 + 2 K) n, c, h, w).

        An image that a deformation changes by rounding alone, such as a flat one, is not changed at all.

        Args:
            clean: the images.
            indices: of the images, for their streams.
            layout: of the result.
        """
        n, count = len(clean), 1 + 2 * len(self.deformations)
        layout = layout if clean.ndim == 4 else torch.contiguous_format
        whole = torch.empty(
            (count * n, *clean.shape[1:]), dtype=clean.dtype, device=clean.device, memory_format=layout
        )
        into = iter(whole.chunk(count) if n else (whole,) * count)
        next(into).copy_(clean)
        noise = self._streams("noise", indices)
        with exact(clean.device):
            for deformation in self.deformations:
                pair = self._pair(deformation, clean, self._streams("diffeo", indices), noise.again())
                next(into).copy_(pair[0])
                torch.add(pair[1], clean, out=next(into))
        return whole

    def _pair(
        self, deformation: Deformation, clean: torch.Tensor, diffeo: Streams, noise: Streams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Deformed images, and the noise to be added to the clean ones."""
        version = clean._version
        deformed = called("deformation", deformation, clean, diffeo)
        if deformed.shape != clean.shape:
            gave = f"the deformation {name_of(deformation)} gave images {tuple(deformed.shape)}"
            raise UsageError(f"{gave}, expected {tuple(clean.shape)}")
        check_unwritten("deformation", deformation, (clean, version))
        deformed = _without_rounding(clean, deformed.to(clean.device))
        changed = deformed._version
        eta = called("noise", self.noise, clean, deformed, noise)
        check_unwritten("noise", self.noise, (clean, version), (deformed, changed))
        return deformed, eta

    def check(self, clean: torch.Tensor, indices: Sequence[int]) -> None:
        """Try on a few images whether equal generators give equal draws; of this package's own it is known.

        Raises:
            UsageError: they do not: one record's key would stand for several results.
        """
        few, own = clean[:_TRIED], indices[:_TRIED]
        for deformation in self.deformations:
            things = {"deformation": deformation, "noise": self.noise}
            if all(map(is_built_in, things.values())):
                continue
            with exact(clean.device):
                once, again = (
                    self._pair(deformation, few, self._streams("diffeo", own), self._streams("noise", own))
                    for _ in range(2)
                )
            for (kind, thing), first, second in zip(things.items(), once, again, strict=True):
                check_alike(kind, thing, first, second)

    def fields(self, clean: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
        """The displacements by which `parts` moves the pixels first: (n, 2, h, w), in pixels.

        Raises:
            UsageError: the first deformation has no displacement fields.
        """
        return displacement_of(self.deformations[0], clean, self._streams("diffeo", indices))

    def tangents(self, clean: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
        """The directions of the first deformation and of noise of its norm: (n, c, h, w) -> (2 n, c, h, w).

        Raises:
            UsageError: the deformation has no displacement fields.
        """
        v = direction(self.deformations[0], clean, self._streams("diffeo", indices))
        wide = clean.to(v)
        return torch.cat([v, self.noise(wide, wide + v, self._streams("noise", indices))]).to(clean)

    def _streams(self, purpose: str, indices: Sequence[int]) -> Streams:
        return Streams(self.seed, purpose, indices)


class PerturbedImages:
    """Images under a perturbation, batch by batch, for one pass over them or several.

    Args:
        source: batch size -> batches; it is called again for another pass, or after an out-of-memory.
        perturbation: what is done to the images.
        keep: bytes of parts that are kept from the first pass for the others. Beyond it nothing is kept,
            and each pass draws its own: memory does not grow with the number of images. Batches of another
            size, layout, type or device are drawn anew, and so are those that a network has written into.
    """

    def __init__(self, source: Batches, perturbation: Perturbation, keep: int = 0) -> None:
        self.source, self.perturbation, self.keep = source, perturbation, keep
        self._first: list[torch.Tensor | None] = []
        self.pairs = len(perturbation.deformations)
        self._changed = torch.zeros(self.pairs, dtype=torch.bool)  # where the parts are
        self._batches: list[Batch] = []
        self._key: tuple[object, ...] | None = None  # of what is kept, once all of it is
        self._checked = False

    def first(self) -> torch.Tensor | None:
        """The first image, clean: (1, c, h, w); None where there are no images."""
        if not self._first:
            self._first.append(next((images for _, images in self.source(1)), None))
        return self._first[0]

    @property
    def deformed(self) -> list[bool]:
        """Whether each deformation has changed any image so far. This waits for the device."""
        found: list[bool] = self._changed.tolist()
        return found

    def corrupted(self, size: int, like: torch.Tensor, layout: torch.memory_format) -> Iterator[Batch]:
        """(indices, images) of each batch: not perturbed, but corrupted; else as `batches`."""
        for indices, images in self._clean(size, like):
            yield indices, images.contiguous(memory_format=layout) if images.ndim == 4 else images

    def batches(
        self, size: int, like: torch.Tensor, layout: torch.memory_format
    ) -> Generator[Batch, None, None]:
        """(indices, parts) of each batch.

        Args:
            size: images a batch.
            like: a tensor of the type and on the device wanted, such as a parameter of the network.
            layout: of the parts.
        """
        key = (size, layout, like.dtype, like.device)
        if key == self._key:
            yield from self._untouched(self._batches)
            return
        self._batches, self._key, fits = [], None, True
        for batch in self._untouched(self._drawn(size, like, layout)):
            fits = fits and sum(t.nbytes for _, t in [*self._batches, batch]) <= self.keep
            self._batches = [*self._batches, batch] if fits else []
            yield batch
        if fits and self._batches:
            self._key = key

    def _clean(self, size: int, like: torch.Tensor) -> Generator[Batch, None, None]:
        """For another device the next batch is read while the caller works on this one.

        All else is done there: nothing is drawn on the host, and nothing waits.
        """

        def read() -> Generator[Batch, None, None]:
            for indices, images in self.source(size):
                images = _of_type(images, like)
                yield indices, images.pin_memory() if _can_be_pinned(images, like) else images

        reading = read() if like.device.type == "cpu" else one_ahead(read())
        with closing(reading) as coming:
            for indices, images in coming:
                yield indices, self.perturbation.corrupted(images.to(like.device, non_blocking=True), indices)

    def _drawn(
        self, size: int, like: torch.Tensor, layout: torch.memory_format
    ) -> Generator[Batch, None, None]:
        with closing(self._clean(size, like)) as coming:
            for indices, clean in coming:
                if not self._checked and len(clean):
                    self.perturbation.check(clean, indices)
                    self._checked = True
                parts = self.perturbation.parts(clean, indices, layout)
                if len(clean):
                    self._look(*torch.split(parts, len(clean)))
                yield indices, parts

    def _look(self, clean: torch.Tensor, *pairs: torch.Tensor) -> None:
        """Note which of the deformations change an image of a batch."""
        if clean.device.type == "cpu":
            for k, deformed in enumerate(pairs[::2]):
                self._changed[k] = bool(self._changed[k]) or not torch.equal(clean, deformed)
        else:
            now = torch.stack([(clean != deformed).any() for deformed in pairs[::2]])
            self._changed = now.logical_or_(self._changed.to(clean.device))

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


def _without_rounding(clean: torch.Tensor, deformed: torch.Tensor) -> torch.Tensor:
    """The deformed images (n, ...), where no pixel differs by more than rounding the clean ones."""
    if not len(clean):
        return deformed
    eps = min(torch.finfo(clean.dtype).eps, torch.finfo(torch.float32).eps)
    change, size = ((deformed - clean).flatten(1), clean.flatten(1))
    rounding = change.abs_().amax(1) <= _ROUNDING_UNITS * eps * size.abs().amax(1)
    if clean.device.type == "cpu" and not rounding.any():  # elsewhere to look would be to wait
        return deformed
    return torch.where(rounding.view(-1, *[1] * (clean.ndim - 1)), clean, deformed)


def batches_of(images: torch.Tensor | Iterable[Any]) -> Batches:
    """Batches of a tensor (n, c, h, w), or of a loader that yields such tensors or (tensor, label) pairs.

    Raises:
        UsageError: neither, or an iterator, which can be gone through only once.
    """
    refuse_array(images)
    if isinstance(images, torch.Tensor):
        if images.ndim not in (3, 4) or not images.is_floating_point():
            raise UsageError(
                f"expected floating-point images (n, c, h, w), got {images.dtype} {tuple(images.shape)}"
            )
        images = [images]
    elif isinstance(images, Iterator):
        raise UsageError(
            "expected a loader that can be iterated again, got an iterator; pass the loader itself"
        )
    loader, seen = images, False

    def batches(size: int) -> Iterator[Batch]:
        nonlocal seen
        start = 0
        for item in loader:
            batch = item[0] if isinstance(item, list | tuple) and item else item
            if not isinstance(batch, torch.Tensor):
                raise UsageError(
                    f"expected a loader of tensors or (tensor, label) pairs, got {type(item).__name__}"
                )
            if not seen:
                seen = True
                check_scale(batch)
            for part in torch.split(batch, size) if len(batch) else ():
                yield range(start, start + len(part)), part
                start += len(part)

    return batches


def _can_be_pinned(images: torch.Tensor, like: torch.Tensor) -> bool:
    """On their way from the host to a GPU, which copies from pinned memory while the host goes on."""
    return like.device.type == "cuda" and images.device.type == "cpu"


def _of_type(images: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    images = images.clone() if images.is_inference() else images  # those have no version counter
    return images.to(like.dtype if like.is_floating_point() else images.dtype)
