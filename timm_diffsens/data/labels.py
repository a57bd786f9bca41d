"""A set's own labels -> the classes of a model."""

import re
from collections.abc import Sequence

from timm_diffsens.data.loading import ImageSample

_HARDLY = 1e-3
_WORDNET_ID = re.compile(r"n\d{8}")


def named_alike(names: Sequence[str] | None, imagenet_names: Sequence[str] | None) -> bool:
    """Whether a set's classes are, by name, classes of a network of an ImageNet."""
    return bool(names and imagenet_names) and set(names or ()) <= set(imagenet_names or ())


def doubt(sample: ImageSample, classes: int | None) -> str | None:
    """Why the labels of a set without class names may not be the model's classes; None without a doubt.

    They are 0 to some m without a gap, and so many draws among all classes would hardly ever leave out all
    above m. The first images of a set that is sorted by class are so too: it is a doubt and no more.

    Args:
        sample: labels are indices in its own classes.
        classes: how many the model has; None without a classifier.
    """
    if not sample.labels or sample.class_names is not None or classes is None:
        return None
    present, most = set(sample.labels), max(sample.labels)
    without_gap = present == set(range(most + 1))
    if not without_gap or ((most + 1) / classes) ** len(sample.labels) >= _HARDLY:
        return None
    labels = "the label 0 alone" if most == 0 else f"the labels 0 to {most}"
    has = f"the {sample.source.word} has {labels}, the model {classes} classes"
    return f"{has}: are these the model's classes?"


def match_labels(
    sample: ImageSample,
    classes: int | None,
    imagenet_names: Sequence[str] | None = None,
    certain: bool = True,
) -> tuple[tuple[int, ...] | None, str | None]:
    """The sample's labels as the model's class indices, or None and the reason why there are none.

    Args:
        sample: labels are indices in its own classes.
        classes: how many the model has; None without a classifier.
        imagenet_names: the model's classes in order as WordNet ids, if that is what they are. A set whose
            classes are WordNet ids is then matched by name, so that a part of ImageNet is labelled right.
        certain: whether they are; else the classes may be others, as many, and a set that has other classes
            than those has its own labels.
    """
    where = sample.source.word
    if sample.labels is None:
        return None, "the images have no labels"
    if classes is None:
        return None, "the model has no classifier"
    names = sample.class_names
    if classes == 1 and names is not None and len(names) == 2:
        return sample.labels, None  # the sign of the single score
    if names is None:
        if max(sample.labels) >= classes:
            return None, f"the {where} has a label {max(sample.labels)}, the model {classes} classes"
        return sample.labels, None
    if imagenet_names is not None and all(_WORDNET_ID.fullmatch(name) for name in names):
        if named_alike(names, imagenet_names):
            position = {name: index for index, name in enumerate(imagenet_names)}
            return tuple(position[names[label]] for label in sample.labels), None
        if certain and len(names) == classes:
            missing = next(name for name in names if name not in imagenet_names)
            return None, f"the {where} has the class {missing}, which the model does not have"
    if len(names) != classes:
        return None, f"the {where} has {len(names)} classes, the model {classes}"
    if certain and imagenet_names is not None and not all(name.isdigit() for name in names):
        others = f"not the model's, which are WordNet ids ({names[0]!r}, say)"
        return None, f"the {where}'s class names are {others}"
    return sample.labels, None
