"""Names of the architectures there are."""

from timm_diffsens.device import allocator
from timm_diffsens.models.nets import NETS
from timm_diffsens.models.sources import torchvision_names


def known_names(pretrained: bool = False) -> list[str]:
    """Every timm architecture, every torchvision classifier, and our own networks, by their specs.

    Args:
        pretrained: only those with published weights, timm's with the tags of their weights.
    """
    allocator.prepare()
    import timm

    names = [*timm.list_models(pretrained=pretrained)]
    names += [f"torchvision/{name}" for name in torchvision_names()]
    return names + ([] if pretrained else [f"net/{name}" for name in NETS])
