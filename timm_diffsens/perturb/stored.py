"""Displacement fields of one's own: from a file, and into one."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from timm_diffsens.errors import UsageError, first_line
from timm_diffsens.files import absolute, write_atomic
from timm_diffsens.perturb.deformation import Size
from timm_diffsens.perturb.fields import DisplacementFields, sides
from timm_diffsens.perturb.streams import Generator, Streams
from timm_diffsens.registry import HASH_DIGITS, Look, register

_FIELDS, _IMAGES = "fields", "images"  # names of the arrays in an .npz file
_MOST = 2**32  # bytes of a file
_HEADERS = 2**16  # bytes of it that are no fields, and more


@register("deformations", "fields", help="displacement fields from a file", look=Look("#000000"), order=7)
@dataclass(frozen=True)
class StoredFields(DisplacementFields):
    """Each image is displaced by a field from a file: x is read at x - tau(x), as `Diffeo` does it.

    An .npy file holds fields (n, 2, h, w), in pixels, order (dx, dy), which the images take in turn: image i
    of the data set takes field i modulo n. An .npz file may say in `images` which image each of its `fields`
    is for; `save_fields` writes such files.

    Args:
        file: of the fields.

    Raises:
        UsageError: no such file, or none of fields.

    Example:
        >>> import tempfile, numpy, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy.save(f"{folder}/right.npy", numpy.full((1, 2, 8, 8), [[[1.0]], [[0.0]]]))
        ...     fields = StoredFields(f"{folder}/right.npy")
        >>> fields(torch.arange(8.0).expand(1, 1, 8, 8))[0, 0, 0].round().int().tolist()
        [0, 0, 1, 2, 3, 4, 5, 6]
    """

    file: str
    suffixes: ClassVar[tuple[str, ...]] = (".npy", ".npz")

    def __post_init__(self) -> None:
        fields, images, sha256 = _read(str(absolute(Path(self.file))))
        object.__setattr__(self, "_fields", fields)
        object.__setattr__(
            self, "_places", None if images is None else {int(i): k for k, i in enumerate(images)}
        )
        object.__setattr__(self, "stated", {"sha256": sha256[:HASH_DIGITS]})

    def rms(self, size: Size) -> float:
        """Rms displacement in pixels, over all fields."""
        fields: npt.NDArray[np.float32] = self._fields  # type: ignore[attr-defined]
        return float(np.sqrt(np.square(fields, dtype=np.float64).sum(axis=1).mean()))

    def problem_on(self, images: Sequence[int]) -> str | None:
        """What is wrong with it on images of these numbers; None where nothing is."""
        fields, places = self._fields, self._places  # type: ignore[attr-defined]
        if places is not None or len({int(i) % len(fields) for i in images}) == len(images):
            return None
        plural = "s" * (len(fields) != 1)
        return (
            f"{Path(self.file).name} has {len(fields)} field{plural} for {len(images)} images: image i takes "
            f"field i modulo {len(fields)}. Images with the same field are not independent: standard errors "
            "are too small"
        )

    def displacement(
        self,
        n: int,
        size: Size,
        generator: Generator = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> torch.Tensor:
        """The fields of `n` images: (n, 2, h, w); of image 0, 1, ... where the generator knows no images.

        Raises:
            UsageError: fields of another size, or none for one of the images.
        """
        fields, places = self._fields, self._places  # type: ignore[attr-defined]
        if fields.shape[2:] != sides(size):
            raise UsageError(
                f"{self.file} has fields of {' x '.join(map(str, fields.shape[2:]))} pixels, the images have "
                f"{' x '.join(map(str, sides(size)))}"
            )
        images = generator.indices if isinstance(generator, Streams) else range(n)
        try:
            chosen = [int(i) % len(fields) if places is None else places[int(i)] for i in images]
        except KeyError as error:
            raise UsageError(f"{self.file} has no field for image {error.args[0]}") from None
        return torch.from_numpy(fields[chosen]).to(device, dtype)


def save_fields(file: str | Path, deformation: Any, images: Sequence[int], size: Size, seed: int = 0) -> None:
    """Write the fields by which a measurement displaces images, so that `StoredFields` displaces them alike.

    Args:
        file: to be written, .npz.
        deformation: with displacement fields, such as `Diffeo`.
        images: their numbers in the data set, `range(500)` say.
        size: of the images, in pixels.
        seed: of the measurement.

    Raises:
        UsageError: the deformation has no fields, there are more than `StoredFields` reads, or the file has
            another ending.
    """
    from io import BytesIO

    if Path(file).suffix != ".npz":
        raise UsageError(f"{file} must end in .npz")
    if not hasattr(images, "__len__"):
        raise UsageError(f"images must be their numbers, range({images}) say, got {images!r}")
    if not hasattr(deformation, "displacement"):
        raise UsageError(f"the deformation {type(deformation).__name__} has no displacement fields")
    height, width = sides(size)
    if (needed := 2 * 4 * len(images) * height * width) > _MOST - _HEADERS:
        raise UsageError(
            f"the fields of {len(images)} images of {height} x {width} take {needed / 2**30:.3g} GiB, "
            f"and a file holds at most {_MOST / 2**30:g} GiB: use fewer --images"
        )
    fields = deformation.displacement(len(images), size, Streams(seed, "diffeo", images))
    content = BytesIO()
    np.savez(content, **{_FIELDS: fields.numpy(), _IMAGES: np.asarray(images, dtype=np.int64)})
    write_atomic(Path(file), content.getvalue())


def _read(file: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64] | None, str]:
    """Fields, the images they are for, and the hash of the file."""
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no file {path.name} with displacement fields")
    if path.suffix not in StoredFields.suffixes or path.stat().st_size > _MOST:
        raise UsageError(f"{path.name} must be an .npy or .npz file of at most {_MOST / 2**30:g} GiB")
    try:
        found, images = np.load(path, allow_pickle=False), None
        if isinstance(found, np.lib.npyio.NpzFile):
            with found as arrays:
                images = arrays[_IMAGES] if _IMAGES in arrays.files else None
                found = arrays[_FIELDS if _FIELDS in arrays.files else arrays.files[0]]
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path.name} holds no displacement fields: {first_line(error)}") from error
    if (
        found.ndim != 4
        or found.shape[1] != 2
        or not len(found)
        or not np.issubdtype(found.dtype, np.floating)
    ):
        raise UsageError(
            f"{path.name}: expected floating-point fields (n, 2, h, w), got {found.dtype} {found.shape}"
        )
    if not np.isfinite(found).all():
        raise UsageError(f"{path.name} holds numbers that are not finite")
    if images is not None and (images.shape != (len(found),) or not np.issubdtype(images.dtype, np.integer)):
        raise UsageError(f"{path.name}: expected {len(found)} whole numbers in {_IMAGES}, got {images.shape}")
    return found.astype(np.float32), images, hashlib.sha256(path.read_bytes()).hexdigest()
