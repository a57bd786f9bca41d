"""D, G and R of a representation as a metric of torchmetrics."""

from typing import Any

import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.integrations.optional import missing

try:
    from torchmetrics import Metric
except ImportError:
    Metric = object

_INSTALLED = Metric is not object
_SUMS = 5  # numbers before the mean


class SensitivityMetric(Metric):  # type: ignore[misc]
    """D, G and R of a representation, batch by batch and process by process: `sensitivity` of all of them.

    Its state is one row of float64 numbers: its length, how many images, the sums of ||deformed - clean||^2,
    ||noised - clean||^2 and ||clean - mean||^2, the mean. Rows are merged exactly (Chan, Golub and LeVeque
    1979), so the denominator is over all distinct pairs of images, those of different batches and processes
    too.

    Args:
        options: of `torchmetrics.Metric`.

    Raises:
        UsageError: torchmetrics is not installed.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    rows: list[torch.Tensor]

    def __init__(self, **options: Any) -> None:
        if not _INSTALLED:
            raise missing("torchmetrics", "SensitivityMetric", "torchmetrics")
        super().__init__(**options)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """Of the state, and so of the nothing that a process without images sends."""
        return torch.float64

    def update(self, clean: torch.Tensor, deformed: torch.Tensor, noised: torch.Tensor) -> None:
        """Add n images: representations (n, ...) of equal shape.

        Raises:
            UsageError: the shapes differ, or a sample holds more or fewer numbers than before.
        """
        parts = [part.detach() for part in (clean, deformed, noised)]
        shapes = [tuple(part.shape) for part in parts]
        if len(set(shapes)) > 1 or not shapes[0]:
            raise UsageError(f"expected three tensors (n, ...) of equal shape, got {shapes}")
        if shapes[0][0]:
            self.rows = [_merged([*self.rows, _row(*(part.double().flatten(1) for part in parts))])]

    def compute(self) -> dict[str, torch.Tensor]:
        """`d`, `g` and `r`, float64; nan where `sensitivity` gives nan, and for D and G of a single image.

        Of one image R has a value all the same: it is the ratio of the two numerators, which need no second
        image, as the denominator over pairs of images does.
        """
        rows = self.rows if isinstance(self.rows, list) else _apart(self.rows)  # one vector of all processes
        if not rows:
            nothing = torch.tensor(torch.nan, dtype=torch.float64, device=self.device)
            return dict.fromkeys("dgr", nothing)
        _, count, a, g, square_sum = _merged(rows)[:_SUMS]
        between = 2 * count * square_sum / (count - 1)
        return {"d": _ratio(a, between), "g": _ratio(g, between), "r": _ratio(a, g)}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """`Metric.plot`: D, G and R of now, or given ones; of a list, over its steps. Needs matplotlib."""
        return self._plot(val, ax)


def _row(clean: torch.Tensor, deformed: torch.Tensor, noised: torch.Tensor) -> torch.Tensor:
    """Arrays (n, d) -> (5 + d,)."""
    first = clean[0]
    gaps = clean - first  # a constant representation has no spread at all then, not one of rounding
    mean = gaps.mean(0)
    sums = [(deformed - clean).square().sum(), (noised - clean).square().sum(), (gaps - mean).square().sum()]
    length, count = (torch.full_like(sums[0], number) for number in (_SUMS + len(first), len(clean)))
    return torch.cat([torch.stack([length, count, *sums]), first + mean])


def _apart(whole: torch.Tensor) -> list[torch.Tensor]:
    """Rows that lie one behind the other in a vector."""
    rows = []
    while len(whole):
        length = int(whole[0])
        rows.append(whole[:length])
        whole = whole[length:]
    return rows


def _merged(rows: list[torch.Tensor]) -> torch.Tensor:
    """One row of all of them: (5 + d,).

    Raises:
        UsageError: samples of different size.
    """
    sizes = list(dict.fromkeys(len(row) - _SUMS for row in rows))
    if len(sizes) > 1:
        raise UsageError(f"expected {sizes[0]} numbers a sample, got {sizes[1]}")
    if len(rows) == 1:
        return rows[0]
    whole = torch.stack(rows)
    counts, first = whole[:, 1:2], whole[0, _SUMS:]
    gaps = whole[:, _SUMS:] - first
    mean = (counts * gaps).sum(0) / counts.sum()
    sums = whole[:, :_SUMS].sum(0)
    sums[0] = len(whole[0])
    sums[-1] += (counts * (gaps - mean).square()).sum()
    return torch.cat([sums, first + mean])


def _ratio(top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
    defined = (bottom > 0) & bottom.isfinite()
    return torch.where(defined, top / bottom, torch.nan)
