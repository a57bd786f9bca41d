"""timm's models: `resnet50`, `resnet50.a1_in1k`, `hf-hub:owner/name`, `local-dir:FOLDER`."""

import functools
from collections.abc import Mapping
from typing import Any

from timm_diffsens.errors import unknown
from timm_diffsens.models.architectures import Architecture, explained, known_names, no_weights
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.hub import fetch
from timm_diffsens.registry import register

_NAMES = "`diffsens ls models` lists what needs no configuration"


@register("models", "timm", help="by name; hf-hub:owner/name", order=0)
class TimmModels:
    """Arguments are those of `timm.create_model`."""

    def names(self, pretrained: bool) -> list[str]:
        """Every architecture, or all published weights."""
        import timm

        return list(timm.list_models(pretrained=pretrained))

    def find(self, name: str, arguments: ModelArguments, given: Mapping[str, Any]) -> Architecture:
        """An architecture by its name, with a tag of its weights or not, or by where its configuration is."""
        import timm

        name = name.removeprefix("timm/")
        arguments.require(f"timm model {name}", "in_chans", "num_classes", "size")
        remote = ":" in name
        config = {} if remote else _config(name)
        fixed = bool(config.get("fixed_input_size"))
        task = {
            "in_chans": arguments.in_chans,
            "num_classes": arguments.num_classes,
            "img_size": arguments.sides if fixed else None,
        }
        given = {word: value for word, value in task.items() if value is not None} | dict(given)
        make = explained(functools.partial(timm.create_model, name), name, given)
        build = functools.partial(make, pretrained=False)
        arch = config.get("architecture") or name.partition(".")[0]
        where = config.get("hf_hub_id") or config.get("url")
        if remote:  # its configuration has to be read even for random weights
            build = functools.partial(fetch, f"the configuration of {name}", build, _NAMES)
            arch = where = name.partition(":")[2]
        return Architecture(
            arch=arch,
            library="timm",
            build=build,
            pretrained=functools.partial(make, pretrained=True)
            if where or config.get("file")
            else no_weights(name),
            detail=where,
            arguments=arguments,
            fixed_size=fixed,
        )


def _config(name: str) -> dict[str, Any]:
    """What timm knows of an architecture, under its name with a tag of its weights or not."""
    import timm
    from timm.models import get_pretrained_cfg

    base, dot, tag = name.partition(".")
    if base not in timm.list_models():
        raise unknown("model", name, known_names(), "`diffsens ls models` lists them")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")] if dot else []
    if dot and tag not in tags:
        raise unknown(f"weights tag of {base}", tag, tags, f"it has: {', '.join(tags) or 'none'}")
    found = get_pretrained_cfg(name, allow_unregistered=False)
    return dict(found.to_dict()) if found else {}
