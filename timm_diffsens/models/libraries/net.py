"""Our own networks for small images: `net/NAME`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.models.architectures import Architecture, no_weights
from timm_diffsens.models.arguments import ModelArguments, check_biases
from timm_diffsens.models.inputs import plain_input
from timm_diffsens.models.nets import NETS, make_net, net_arguments
from timm_diffsens.registry import register

_OWN_WORDS = {"in_chans": "channels", "num_classes": "classes", "size": "side"}
_HALF = (0.5,)


@register("models", "net", help="net/NAME: small networks for small images", order=2)
class OwnNetworks:
    """Arguments are those of `ModelArguments` that the network has."""

    def names(self, pretrained: bool) -> list[str]:
        """All of them; none has published weights."""
        return [] if pretrained else [f"net/{name}" for name in NETS]

    def find(self, name: str, arguments: ModelArguments, given: Mapping[str, Any]) -> Architecture:
        """A network of `models.nets.NETS`."""
        arch = name.removeprefix("net/")
        if arch not in NETS:
            raise unknown("network", name, self.names(False), "`diffsens ls models 'net/*'` lists them")
        words = {own: word for word, own in _OWN_WORDS.items()}
        taken = [words.get(own, own) for own in net_arguments(arch)]
        for word in given:
            if word not in taken:
                raise unknown(f"argument of {name}", word, taken)
        arguments = dataclasses.replace(arguments, **given)
        arguments.require(name, *taken)
        check_biases(arguments.bias, arguments.bias_mean, arguments.bias_std)
        return Architecture(
            arch=arch,
            library="net",
            build=functools.partial(make_net, arch, **_in_own_words(name, arguments)),
            pretrained=no_weights(name),
            input=plain_input(3, (1 if arguments.dims == 1 else 32, 32), _HALF, _HALF),
            arguments=arguments,
        )


def _in_own_words(name: str, arguments: ModelArguments) -> dict[str, Any]:
    """In the words of our own networks, which take square images."""
    sides = arguments.sides
    if sides and arguments.dims == 2 and sides[0] != sides[1]:
        raise UsageError(f"{name} takes square images, got size {sides[0]} x {sides[1]}")
    given = {_OWN_WORDS.get(word, word): getattr(arguments, word) for word in arguments.given}
    return given | ({"side": sides[1]} if sides else {})
