"""One seed -> an independent random stream for each (purpose, image).

A draw belongs to the image, not to the batch it happens to be in, so that batch size, order, worker count
and sharding do not change it.
"""

import math
import zlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeGuard, TypeVar, overload

import numpy as np
import torch

from timm_diffsens.device import threads
from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.normals import normals

_MANY = 2**16  # numbers: below, handing images to other threads costs more than it saves

Made = TypeVar("Made")
Generator = torch.Generator | np.random.Generator | Sequence[np.random.Generator] | None


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The stream of image `index` for `purpose` ("diffeo", "noise", ...) under `seed`.

    Philox is counter-based (Salmon et al. 2011), and distinct keys give streams that do not overlap. Seed
    (64 bits; larger ones modulo 2^64), purpose (its CRC-32) and index (32 bits) fill the 128-bit pool of
    `SeedSequence`, which mixes them into the key invertibly: distinct numbers give distinct keys.
    """
    words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, zlib.crc32(purpose.encode()), index]
    entropy = np.array(words, dtype=np.uint32)  # the words of the list, in a third of its time
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


class Streams(Sequence[np.random.Generator]):
    """One stream for each image of a batch, made when it is asked for; and normals drawn for all at once.

    Args:
        seed, purpose: see `stream`.
        indices: of the images.
    """

    def __init__(self, seed: int, purpose: str, indices: Sequence[int]) -> None:
        self.seed, self.purpose, self.indices = seed, purpose, indices
        self._made: dict[int, np.random.Generator] = {}
        self._next = 0  # in fours, as Philox makes them
        self._kept: dict[tuple[Hashable, int], tuple[Any, int]] = {}

    def again(self) -> "Streams":
        """The same from their beginning; what is kept of them is not made a second time."""
        other = Streams(self.seed, self.purpose, self.indices)
        other._kept = self._kept
        return other

    def normals(self, shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
        """Standard normal draws: (n, *shape), float32; each call goes on where the last one ended.

        They are those of `perturb.normals`, the same on every device, and not from the NumPy generators.

        Args:
            shape: shape of one image's draw.
            device: where they are made.
        """
        start = self._next
        self._next += -(-math.prod(shape) // 4)
        return normals(self.seed, self.purpose, self.indices, shape, device, start)

    def kept(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is made of draws from here on, for `again` too: it is not to be written into."""
        place = key, self._next
        if place not in self._kept:
            self._kept[place] = make(), self._next
        made: Made
        made, self._next = self._kept[place]
        return made

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> np.random.Generator: ...

    @overload
    def __getitem__(self, place: slice) -> list[np.random.Generator]: ...

    def __getitem__(self, place: int | slice) -> np.random.Generator | list[np.random.Generator]:
        places = range(len(self))[place]
        return [self._of(i) for i in places] if isinstance(places, range) else self._of(places)

    def _of(self, place: int) -> np.random.Generator:
        if place not in self._made:
            self._made[place] = stream(self.seed, self.purpose, self.indices[place])
        return self._made[place]


def wide_type(images: torch.Tensor) -> torch.dtype:
    """Of draws: half precision is widened, as a rounded scale would miss a norm by up to 0.4 %."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def standard_normal(
    n: int,
    shape: Sequence[int],
    generator: Generator,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Standard normal draws: (n, *shape), on the device.

    Args:
        n: number of images.
        shape: shape of one image's draw.
        generator: a torch or numpy generator, `Streams` or another sequence of `n` numpy generators (one an
            image), or None for torch's global stream.
        dtype: float32 or float64; numpy draws are made in that precision, those of `Streams` in float32.
        device: only `Streams` draw there; what others draw is copied.

    Raises:
        UsageError: something else, or a sequence whose length is not `n`.
    """
    if generator is None or isinstance(generator, torch.Generator):
        home = generator.device if generator is not None else None
        return torch.randn(n, *shape, generator=generator, dtype=dtype, device=home).to(device)
    each = [generator] * n if isinstance(generator, np.random.Generator) else generator
    if not isinstance(each, Streams) and not _are_numpy_generators(each):
        raise UsageError(
            "expected a torch or numpy generator, a sequence of numpy generators (one an image) or None, "
            f"got {generator!r}"
        )
    if len(each) != n:
        raise UsageError(f"expected one generator for each of the {n} images, got {len(each)}")
    if isinstance(each, Streams):
        return each.normals(shape, device).to(dtype)
    return _numpy_draws(shape, each, dtype).to(device)


def _are_numpy_generators(each: object) -> TypeGuard[Sequence[np.random.Generator]]:
    return isinstance(each, Sequence) and all(isinstance(g, np.random.Generator) for g in each)


def _numpy_draws(
    shape: Sequence[int], each: Sequence[np.random.Generator], dtype: torch.dtype
) -> torch.Tensor:
    n = len(each)
    out = np.empty((n, *shape), dtype=np.float64 if dtype == torch.float64 else np.float32)

    def fill(image: int) -> None:
        each[image].standard_normal(dtype=out.dtype, out=out[image])

    if out.size >= _MANY and len({id(source) for source in each}) == n:
        threads.share(fill, n)
    else:
        for image in range(n):
            fill(image)
    return torch.from_numpy(out).to(dtype)
