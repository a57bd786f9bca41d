"""Everything a measurement can be asked for, checked on construction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.data.specs import SCALE_TASKS
from timm_diffsens.device.precision import Precision
from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.models.loading import InputOptions
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.pixels import ActivePixels, Deformation
from timm_diffsens.schema.records import built_in_variants, in_order

DEFAULT_VARIANTS = ("original", "channel-shuffled", "mean-channel")


@dataclass(frozen=True)
class Options:
    """Everything `bench` can be asked for; see `diffsens bench --help`.

    Attributes:
        dataset, data_dir, split, images, download: see `data.loading.load_images`.
        pretrained, checkpoint: see `models.loading.load_model`.
        input_size, mean, std: in place of the model's own preprocessing.
        delta, cut: of the deformation, see `perturb.diffeo.Diffeo`.
        corrupt: standard deviation of the noise fixed for each image, in units of the network's input.
        seed: of the sample, the perturbations, the shuffles and random weights.
        layers: selection or patterns, see `models.layers.select_layers`.
        variants: of `schema.records.built_in_variants`.
        shuffles, init_samples: copies averaged over. shuffle_linear: permute linear layers too.
        device, batch_size: where and in what portions; they do not change the numbers beyond rounding.
        dims, size, xi, gap: of the data sets scale1 and scale2, see `data.scale_detection.ScaleDetection`.
        amp, tf32: of the forwards, see `device.precision.Precision`.
        full_error: top-1 error over the whole split. test_error: a fraction, known from elsewhere.
    """

    dataset: str = "dead-leaves"
    data_dir: str | Path | None = None
    split: str | None = None
    images: int | None = 500
    download: bool = False
    pretrained: bool = True
    checkpoint: str | Path | None = None
    input_size: int | tuple[int, int] | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    delta: float = 1.0
    cut: int = 3
    corrupt: float = 0.0
    seed: int = 0
    layers: str | Sequence[str] = "blocks"
    variants: str | Sequence[str] = DEFAULT_VARIANTS
    shuffles: int = 1
    shuffle_linear: bool = False
    init_samples: int = 1
    device: str = "auto"
    batch_size: int | str = "auto"
    amp: bool = False
    tf32: bool = False
    full_error: bool = False
    test_error: float | None = None
    dims: int | None = None
    size: int | None = None
    xi: float | None = None
    gap: float | None = None

    def __post_init__(self) -> None:
        for name in ("shuffles", "init_samples"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.corrupt < float("inf"):
            raise UsageError(f"corrupt must be a standard deviation of at least 0, got {self.corrupt}")
        if self.test_error is not None and not 0 <= self.test_error <= 1:
            raise UsageError(f"test error must be a fraction between 0 and 1, got {self.test_error}")
        if self.batch_size != "auto" and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise UsageError(f"batch size must be a positive number or auto, got {self.batch_size!r}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed must be at least 0 and below 2^63, got {self.seed}")

    @property
    def task(self) -> ScaleDetection | None:
        """The scale-detection task, if the data set is one.

        Raises:
            UsageError: its parameters make no sense, or are given for another data set.
        """
        given = {n: v for n in ("dims", "size", "xi", "gap") if (v := getattr(self, n)) is not None}
        if self.dataset in SCALE_TASKS:
            return ScaleDetection(int(self.dataset.removeprefix("scale")), **given)
        if given:
            raise UsageError(f"{', '.join(given)} belong to scale1 and scale2, not to {self.dataset}")
        return None

    @property
    def precision(self) -> Precision:
        """The precision of the forwards asked for."""
        return Precision(self.amp, self.tf32)

    @property
    def diffeo(self) -> Deformation:
        """The deformation asked for; scale detection has its own."""
        return ActivePixels(self.task) if self.task else Diffeo(self.delta, self.cut)

    @property
    def input(self) -> InputOptions:
        """The preprocessing asked for."""
        size = (self.input_size, self.input_size) if isinstance(self.input_size, int) else self.input_size
        if size is not None and (len(size) != 2 or min(size) < 2):
            raise UsageError(f"input size must be H or H,W of at least 2 pixels, got {self.input_size}")
        mean, std = (
            None if v is None else (float(v),) if isinstance(v, int | float) else tuple(float(x) for x in v)
            for v in (self.mean, self.std)
        )
        return InputOptions(size=size, mean=mean, std=std)

    @property
    def variant_names(self) -> list[str]:
        """Variants in their fixed order, `original` always among them."""
        asked: list[str] = []
        listed = [self.variants] if isinstance(self.variants, str) else self.variants
        for name in (part for text in listed for part in text.split(",") if part):
            asked += built_in_variants() if name == "all" else (name,)
        for name in asked:
            if name not in built_in_variants():
                raise unknown("variant", name, [*built_in_variants(), "all"])
        return in_order([*asked, "original"])

    @property
    def layer_names(self) -> list[str]:
        """The layer selection as a list."""
        asked = [self.layers] if isinstance(self.layers, str) else list(self.layers)
        return [part for text in asked for part in text.split(",") if part]
