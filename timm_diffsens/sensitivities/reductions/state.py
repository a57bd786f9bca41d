"""What is kept of a layer: a few sums with names; and how the images of a batch fall into blocks."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch

# Columns of a tile, whose sums of squares are taken in float32, exact to 1e-6, before float64 takes over;
# they stay in a core's first-level cache.
TILE = 2**12
MOST_IMAGES = 16  # of a block; the more, the less the pivot is written
FEW = 100  # up to so many images intervals come from the images' own numbers; more do without


class Block(NamedTuple):
    """Images of one block: as many of it as one batch has.

    Attributes:
        first, last: the images of the batch that belong to the block, `last` not among them.
        before: images before the block, whose mean the pivot is.
        number: images before `first`, those of the block included.
        after: images up to its end, if they are its last, else 0.
    """

    first: int
    last: int
    before: int
    number: int
    after: int

    @property
    def opens(self) -> bool:
        """Whether these are the first images of the block."""
        return self.number == self.before


@functools.lru_cache(64)
def blocks_of(n: int, count: int, open_count: int) -> tuple[Block, ...]:
    """How the next `n` images fall into blocks, which end at 1, 2, 4, 8, 16 images, then at multiples of 16.

    Args:
        n: images of the batch.
        count: images before the batch.
        open_count: of those, the last that belong to a block that goes on.
    """
    made: list[Block] = []
    first = 0
    while first < n:
        before, number = count - open_count, count
        last = min(n, first + _block_end(count) - count)
        count += last - first
        closes = count == _block_end(count - 1)
        open_count = 0 if closes else open_count + last - first
        made.append(Block(first, last, before, number, count if closes else 0))
        first = last
    return tuple(made)


def _block_end(count: int) -> int:
    """Where the block that image `count` (from 0) is in ends."""
    if count == 0:
        return 1
    return 1 << count.bit_length() if count < MOST_IMAGES else (count // MOST_IMAGES + 1) * MOST_IMAGES


@dataclass(frozen=True)
class RunningSums:
    """The numbers that are kept of a layer, in float64, in one piece of memory.

    Of an image there are M = 2 K + 1 of them, in the order (a_1, g_1, ..., a_K, g_K, b), for K pairs of a
    deformation and a noise: a = ||deformed - clean||^2, g = ||noised - clean||^2 and
    b = 2 N / (N + 1) ||clean - pivot||^2, N being the number of images before the image's block.

    Attributes:
        memory: (2 + M + kept, M), of which the others are views.
    """

    memory: torch.Tensor

    @classmethod
    def of_layers(
        cls, count: int, device: torch.device, pairs: int = 1, kept: int = FEW
    ) -> "list[RunningSums]":
        """Those of so many layers, all zero, in one piece of memory."""
        numbers = 2 * pairs + 1
        shape = count, 2 + numbers + kept, numbers
        return [cls(memory) for memory in torch.zeros(shape, dtype=torch.float64, device=device)]

    def to_cpu(self) -> "RunningSums":
        """All of them at once: a device is waited for once."""
        return RunningSums(self.memory.cpu())

    def of_pair(self, pair: int) -> "RunningSums":
        """The sums (a, g, b) of one pair, as if there were no other, with at most `FEW` images: a copy."""
        rows = [2 * pair, 2 * pair + 1, self.numbers - 1]
        others = self.memory[1 + self.numbers, :3][None]
        memory = [self.totals[None, rows], self.products[rows][:, rows], others, self.images[:FEW, rows]]
        return RunningSums(torch.cat(memory))

    @property
    def numbers(self) -> int:
        """M, how many there are of an image."""
        return self.memory.shape[1]

    @property
    def kept(self) -> int:
        """Of how many images, the first ones, the own numbers are kept."""
        return self.memory.shape[0] - 2 - self.numbers

    @property
    def totals(self) -> torch.Tensor:
        """Sums over images: (M,)."""
        return self.memory[0]

    @property
    def products(self) -> torch.Tensor:
        """Sums over images of the products of their numbers with each other: (M, M)."""
        return self.memory[1 : 1 + self.numbers]

    @property
    def in_block(self) -> torch.Tensor:
        """Sum of ||clean - pivot||^2 over the open block: ()."""
        return self.memory[1 + self.numbers, 0]

    @property
    def settled(self) -> torch.Tensor:
        """Sum of ||clean - mean||^2 over the images before the open block: ()."""
        return self.memory[1 + self.numbers, 1]

    @property
    def images(self) -> torch.Tensor:
        """The numbers of each of the first images; zero where there are fewer: (kept, M)."""
        return self.memory[2 + self.numbers :]

    @property
    def first(self) -> torch.Tensor:
        """The numbers of the first image: (M,)."""
        return self.images[0]
