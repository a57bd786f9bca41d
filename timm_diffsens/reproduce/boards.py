"""What the folder of a leaderboard holds already: trained networks, and records of whole sets of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from timm_diffsens.errors import UsageError
from timm_diffsens.models.checkpoints import read_recipe
from timm_diffsens.results.stats.leaderboard import Choices, Group, Leaderboard, Series, build_leaderboard
from timm_diffsens.schema.protocol import digest
from timm_diffsens.schema.records import Record
from timm_diffsens.train.recipe import Recipe

_DELTA, _CUT = 1.0, 3  # of the paper


def checkpoint_folders(board: Path) -> list[Path]:
    """Those of a board: `checkpoints`, `checkpoints-fitted`, ..."""
    return [path for path in sorted(board.glob("checkpoints*")) if path.is_dir()]


def checkpoints_in(folders: Sequence[Path]) -> dict[str, Path]:
    """Hash of the whole recipe, seed and width included -> checkpoint, of all files below these folders."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")):
            training = (read_recipe(path) or {}).get("training")
            if isinstance(training, dict):
                found.setdefault(digest(training), path)
    return found


@dataclass(frozen=True)
class Board:
    """The records of a leaderboard as populations of networks.

    Attributes:
        folder: with `records/`. resamples: of the bootstrap over networks.
    """

    folder: Path
    resamples: int

    def population(self, like: Recipe, sigma: float = 0.0) -> Group | None:
        """The largest group of networks on the task of a recipe, all that fit their training set.

        Measured as in the paper, and on scale detection with the same parameters.

        Args:
            like: a training of the task.
            sigma: standard deviation of the noise on the images, in training too.
        """
        for group in self._leaderboard.groups if self._leaderboard else ():
            if _is_of(self._records[group.models["key"].iloc[0]], like, sigma):
                return group
        return None

    def networks(self, like: Recipe, specs: Sequence[str]) -> list[Record]:
        """The records of these models on the task of a recipe, without noise on the images."""
        found = self._records.values()
        return [record for record in found if record.model.spec in specs and _is_of(record, like, 0.0)]

    def series(self, group: Group) -> Series | None:
        """The correlations of a group against the noise on the images, where there are others with noise."""
        found = self._leaderboard.series if self._leaderboard else []
        return next((one for one in found if one.slug == f"{group.slug}-noise"), None)

    @cached_property
    def _leaderboard(self) -> Leaderboard | None:
        try:
            return build_leaderboard(self.folder, Choices(resamples=self.resamples))
        except UsageError:  # no records
            return None

    @cached_property
    def _records(self) -> dict[str, Record]:
        return {record.key: record for _, record in self._leaderboard.records} if self._leaderboard else {}


def _is_of(record: Record, like: Recipe, sigma: float) -> bool:
    """Whether a record is of this task under the paper's deformation, with this noise."""
    protocol, scale = record.protocol, like.detection
    if record.data.spec != like.task or abs(protocol.corruption_sigma - sigma) > 1e-9:
        return False
    if scale is not None:
        return record.data.parameters == scale.parameters() and protocol.deformation == "active pixels"
    size = protocol.deformation, protocol.delta, protocol.cut, protocol.reference_side
    return size == ("max-entropy", _DELTA, _CUT, None)
