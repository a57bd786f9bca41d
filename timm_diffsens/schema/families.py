"""Which family a network is of: networks of one family are not independent draws."""

import re

from timm_diffsens.schema.records import Model

_NAME = re.compile(
    r"(?:tf_|gluon_|legacy_|wide_)?(?P<stem>[a-z]+?)(?:_?(?P<version>v\d)(?![a-z0-9]))?(?=[\d_.\-]|$)"
)
# Modules of timm and torchvision that are not called as their networks are; the common ones.
_MODULES = {
    "vision_transformer": "vit deit flexivit",
    "swin_transformer": "swin",
    "mlp_mixer": "mixer gmixer resmlp gmlp",
    "efficientnet": "efficientnetv2 mobilenetv1 mobilenetv2 mnasnet mixnet tinynet spnasnet fbnetc",
    "mobilenetv3": "lcnet fbnetv3 mobilenetv4",
    "convnext": "convnextv2",
    "regnet": "regnetx regnety regnetv",
    "resnet": "resnext seresnet ecaresnet resnetrs",
    "maxxvit": "maxvit coatnet",
    "byobnet": "repvgg mobileone gernet",
    "metaformer": "poolformer caformer convformer",
    "inception": "inceptionv3",
}
_OF_LIBRARIES = {name: module for module, names in _MODULES.items() for name in names.split()}
_OF_TORCHVISION = ("mobilenetv2",)  # have a module of their own there


def family_of(model: Model) -> str:
    """The family that a record states; of older records, which do not, as far as the name tells."""
    if model.family is not None:
        return model.family
    name = family_of_name(model.arch)
    own = model.library == "torchvision" and name in _OF_TORCHVISION
    return name if own or model.library not in ("timm", "torchvision") else _OF_LIBRARIES.get(name, name)


def family_of_name(arch: str) -> str:
    """An architecture's name without its size: the letters that it starts with, and its version.

    Example:
        >>> [family_of_name(name) for name in ("resnet18", "vgg11_bn", "fc2", "mobilenet_v2", "MyNet")]
        ['resnet', 'vgg', 'fc', 'mobilenetv2', 'mynet']
    """
    found = _NAME.match(arch.lower())
    return f"{found['stem']}{found['version'] or ''}" if found else arch
