"""The record's parts that are known before anything runs: model, data, protocol."""

from typing import Any

from timm_diffsens.benchmark.options import Options
from timm_diffsens.data.loading import ImageSample
from timm_diffsens.models.checkpoints import recipe_in
from timm_diffsens.models.loading import LoadedModel
from timm_diffsens.schema import records
from timm_diffsens.schema.protocol import Protocol, protocol_hash


def model_part(loaded: LoadedModel) -> records.Model:
    """Which network, with which weights and preprocessing."""
    return records.Model(
        spec=loaded.spec,
        arch=loaded.arch,
        library=loaded.library,
        parameters=loaded.parameters,
        classes=loaded.classes,
        weights=loaded.weights,
        input=loaded.input,
        recipe=recipe_in(loaded.metadata),
    )


def train_error(recipe: dict[str, Any] | None) -> float | None:
    """Error on the training set, a fraction, if the recipe states it."""
    value = (recipe or {}).get("train_error")
    return float(value) if isinstance(value, int | float) else None


def stated_test_error(
    recipe: dict[str, Any] | None, data: records.Data, corruption: float
) -> tuple[float, int] | None:
    """Test error and its number of images that the recipe of a checkpoint states, if it is on these data."""
    training = (recipe or {}).get("training") or {}
    value, n = (recipe or {}).get("test_error"), (recipe or {}).get("test_images")
    same = training.get("task") == data.spec and training.get("scale") == data.parameters
    # of CIFAR-10 there are several encodings, and the recipe's is not known to be this one
    if not same or data.parameters is None or data.split != "test" or training.get("corrupt") != corruption:
        return None
    return (float(value), int(n)) if isinstance(value, int | float) and isinstance(n, int) else None


def data_part(sample: ImageSample) -> records.Data:
    """Which images."""
    return records.Data(
        spec=sample.spec,
        split=sample.split,
        n=len(sample),
        sample_sha256=sample.sha256,
        seed=sample.seed,
        labelled=sample.labels is not None,
        selection=sample.selection,
        skipped=list(sample.skipped),
        note=sample.note,
        title=sample.title,
        parameters=sample.task.parameters() if sample.task else None,
    )


def protocol_part(options: Options, rms: float, dtype: str) -> Protocol:
    """How they are moved; `rms` is the exact rms displacement in pixels, `dtype` the type of the weights."""
    smooth = options.task is None
    part = Protocol(
        deformation="max-entropy" if smooth else "active pixels",
        delta=options.delta if smooth else None,
        cut=options.cut if smooth else None,
        rms_displacement=rms,
        corruption_sigma=options.corrupt,
        seed=options.seed,
        layers=options.layer_names,
        dtype=options.precision.describe(dtype),
        shuffles=options.shuffles,
        shuffle_linear=options.shuffle_linear,
        init_samples=options.init_samples,
    )
    return part.model_copy(update={"sha256": protocol_hash(part)})
