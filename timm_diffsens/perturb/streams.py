"""One seed -> an independent random stream for each (purpose, image).

A draw belongs to the image, not to the batch it happens to be in, so that batch size, order, worker count
and sharding do not change it.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import torch

Generator = torch.Generator | np.random.Generator | Sequence[np.random.Generator] | None


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The stream of image `index` for `purpose` ("diffeo", "noise", ...) under `seed`.

    Philox is counter-based, and `SeedSequence` spreads the three numbers over its whole 128-bit key, so
    distinct (seed, purpose, index) give streams that do not overlap (Salmon et al. 2011).
    """
    words = [seed & 0xFFFFFFFFFFFFFFFF, zlib.crc32(purpose.encode()), index]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def streams(seed: int, purpose: str, indices: Sequence[int]) -> list[np.random.Generator]:
    """One stream for each image in `indices`."""
    return [stream(seed, purpose, index) for index in indices]


def standard_normal(n: int, shape: Sequence[int], generator: Generator, dtype: torch.dtype) -> torch.Tensor:
    """Standard normal draws: (n, *shape), on the CPU unless a torch generator lives elsewhere.

    Args:
        n: number of images.
        shape: shape of one image's draw.
        generator: a torch or numpy generator, a sequence of `n` numpy generators (one an image), or None
            for torch's global stream.
        dtype: float32 or float64; numpy draws are made in that precision.

    Raises:
        ValueError: a sequence of generators whose length is not `n`.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = generator.device if generator is not None else None
        return torch.randn(n, *shape, generator=generator, dtype=dtype, device=device)
    each = [generator] * n if isinstance(generator, np.random.Generator) else list(generator)
    if len(each) != n:
        raise ValueError(f"expected one generator for each of the {n} images, got {len(each)}")
    out = np.empty((n, *shape), dtype=np.float64 if dtype == torch.float64 else np.float32)
    for row, source in zip(out, each, strict=True):
        source.standard_normal(dtype=out.dtype, out=row)
    return torch.from_numpy(out).to(dtype)
