"""Scale detection as data sets: one part of a task, shown as it is."""

import hashlib
from typing import TYPE_CHECKING

from timm_diffsens import registry
from timm_diffsens.data.source import ImageSource, Item, Origin, Request
from timm_diffsens.data.splits import two_way_split

if TYPE_CHECKING:
    import torch


@registry.register(
    "datasets", "scale2", help="scale detection, made here: are two pixels in one patch of side xi", order=4
)
@registry.register(
    "datasets",
    "scale1",
    help="scale detection, made here: are two pixels closer than xi (--dims, --size, --xi, --gap)",
    order=3,
)
class ScaleImages(ImageSource):
    """One part of the task that the name ends with, see `ScaleDetection`; every channel is the same."""

    paired = True

    def __init__(
        self,
        request: Request,
        dims: int = 2,
        size: int | None = None,
        xi: float | None = None,
        gap: float | None = None,
    ) -> None:
        from timm_diffsens.data.scale_detection import ScaleDetection

        self.task: ScaleDetection = ScaleDetection(int(request.spec[-1]), dims, size, xi, gap)
        request.refuse_folder()
        self.part = two_way_split(request.split)
        text = ", ".join(f"{key} {value}" for key, value in self.task.parameters().items() if key != "task")
        origin = Origin(request.spec, self.part, f"scale detection, made here: {text}")
        super().__init__(origin, self.task.count(self.part), ("-1", "+1"))

    def name(self, index: int) -> str:
        """`scale1/test/00000042`."""
        return f"{self.origin.spec}/{self.part}/{index:08d}"

    def inspect(self, index: int, channels: int) -> Item:
        """The digest is over the task and the active pixels."""
        sample = self.task.at(self.part, [index])
        text = f"{sorted(self.task.parameters().items())} {sample.positions.tolist()}"
        label = (int(sample.labels[0]) + 1) // 2
        return Item(index, label, hashlib.sha256(text.encode()).hexdigest())

    def image(self, index: int, channels: int) -> "torch.Tensor":
        """(channels, length) or (channels, side, side)."""
        return self.task.at(self.part, [index]).images[0].repeat(channels, *[1] * self.task.dims)

    def shape(self, channels: int) -> tuple[int, ...]:
        """As of the task, with so many channels."""
        return (channels, *self.task.shape)
