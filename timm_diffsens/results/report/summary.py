"""One paragraph on a record, in plain words."""

from collections.abc import Iterator

from timm_diffsens.results.numbers import Factor, factor, with_error
from timm_diffsens.results.records.frames import output_layer
from timm_diffsens.results.records.per_image import PerImage
from timm_diffsens.results.stats.sizes import by_size, regime
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.protocol import SMALL_LIMIT
from timm_diffsens.schema.records import Record, built_in_variants


def summary(record: Record, distances: PerImage | None = None) -> str:
    """What the record says, in one paragraph that claims no more than 95 % intervals allow.

    How R changes from the first layer to the output; D, G and R at the output; whether channel pooling and
    training change R there; whether the size of the deformation is small; and what is undecided or not known.

    Args:
        record: of any kind. distances: of single images; without them nothing is said of sizes, which only a
            paired test tells apart.
    """
    return " ".join(filter(None, _sentences(record, distances)))


def _sentences(record: Record, distances: PerImage | None) -> Iterator[str]:
    layers = record.variants.get("original", [])
    valued = [layer for layer in layers if layer.r is not None]
    if not valued:
        yield f"No layer of {record.model.spec} has a value of R{_why(layers)}: there is nothing to read."
        return
    yield _over_depth(record, valued)
    yield _at_output(layers[-1], _noise(record))
    yield from _shuffled(record)
    yield from _trained(record)
    yield from _of_others(record)
    if record.further and distances is not None:
        yield regime(by_size(record, distances), record.protocol.delta, record.protocol.reference_side)
    for view in record.views()[1:]:
        if view.protocol.delta is None and view.protocol.deformation.endswith(SMALL_LIMIT):
            limit = _r(view.variants["original"][-1])
            yield f"For ever smaller deformations R at the output tends to {limit}."
    yield from _limits(record, layers, valued)


def _over_depth(record: Record, valued: list[LayerSensitivity]) -> str:
    name, first, last = record.model.spec, valued[0], valued[-1]
    if first is last:
        return f"In {name} only {first.layer} has a value of R, {_r(first)}: that says nothing about depth."
    span = f"from {_r(first)} at {first.layer} to {_r(last)} at {last.layer}"
    change = _ratio(first, last)
    if change is None:
        return f"In {name} R goes {span}; without standard errors that decides nothing."
    if not change.decided:
        return f"In {name} R goes {span}, which at 95 % may be no change.{_turn(valued)}"
    verb, sense = ("falls", "less") if change.value > 1 else ("rises", "more")
    by = change if change.value > 1 else change.inverse
    back = _way_back(valued, falling=change.value > 1)
    return (
        f"In {name} R {verb} {span}, by a factor of {by}: the last layer is {sense} sensitive to "
        f"{_deformations(record)}, relative to {_noise(record)} of the same norm, than the first.{back}"
    )


def _deformations(record: Record) -> str:
    """Those of the paper are smooth; of others nothing is known."""
    own = record.protocol.deformation in ("max-entropy", "active pixels")
    return "smooth deformations" if own else "these deformations"


def _noise(record: Record) -> str:
    """Noise; by its name, where it is not that of the paper."""
    return f"noise ({record.protocol.noise.partition('@')[0]})" if record.protocol.noise_text else "noise"


def _way_back(valued: list[LayerSensitivity], falling: bool) -> str:
    """Where R decidedly goes the other way, by most; empty where it does so nowhere."""
    start, found, most = valued[0], "", 1.0
    for layer in valued[1:]:
        change = _ratio(layer, start) if falling else _ratio(start, layer)
        if change is not None and change.low > most:
            verb, most = ("rises" if falling else "falls"), change.low
            ends = f"from {_r(start)} at {start.layer} to {_r(layer)} at {layer.layer}"
            found = f" That is not so at every step: R {verb} {ends}, by a factor of {change}."
        if ((layer.r or 0.0) < (start.r or 0.0)) == falling:
            start = layer
    return found


def _turn(valued: list[LayerSensitivity]) -> str:
    """A layer in between whose R is decidedly below, or above, that of both ends."""
    first, last = valued[0], valued[-1]
    for word, sign in (("lower", 1), ("higher", -1)):
        extreme = min(valued[1:-1], key=lambda layer: sign * (layer.r or 0.0), default=None)
        if extreme is None:
            continue
        changes = [_ratio(end, extreme) for end in (first, last)]
        if all(c is not None and c.decided and sign * (c.value - 1) > 0 for c in changes):
            return f" On the way R is {word} than at both: {_r(extreme)} at {extreme.layer}."
    return ""


def _at_output(output: LayerSensitivity, noise: str) -> str:
    if output.r is None:
        return f"The output, {output.layer}, has no R ({output.reason})."
    values = ", ".join(
        f"{name} = {with_error(getattr(output, field), getattr(output, f'{field}_stderr'))}"
        for name, field in (("D", "d"), ("G", "g"), ("R", "r"))
    )
    return f"At the output {values}{_against_one(output, noise)}."


def _against_one(output: LayerSensitivity, noise: str) -> str:
    """R = 1 is where the output moves as much under a deformation as under noise of the same norm."""
    if output.r_interval is None:
        return ""
    low, high = output.r_interval
    if low <= 1 <= high:
        return f"; whether it moves more under deformations or under {noise} of the same norm is undecided"
    more, less = ("deformations", noise) if low > 1 else (noise, "deformations")
    return f": it moves more under {more} than under {less} of the same norm"


def _shuffled(record: Record) -> Iterator[str]:
    original, shuffled = record.variants["original"], record.variants.get("channel-shuffled", [])
    if shuffled and [layer.r for layer in shuffled] == [layer.r for layer in original]:
        yield "Shuffling the channels changed nothing: no convolution here has channels to shuffle."
        return
    change, shuffles = _at_outputs(record, "channel-shuffled"), record.protocol.shuffles
    if change is None:
        return
    draws = f"mean of {shuffles} draws"
    if shuffles == 1:
        yield _one_draw("One draw of shuffled channels", change, "--shuffles")
    elif not change.decided:
        yield (
            f"Whether shuffling the channels ({draws}) changes R at the output is undecided: R is then "
            f"{change} times as large."
        )
    elif change.value > 1:
        yield (
            f"Shuffling the channels ({draws}) raises R at the output by a factor of {change}: part of the "
            "insensitivity to deformations comes from how channels are combined, not from the filters alone."
        )
    else:
        yield (
            f"Shuffling the channels ({draws}) lowers R at the output by a factor of {change.inverse}: "
            "the way channels are combined does not build insensitivity to deformations there."
        )


def _trained(record: Record) -> Iterator[str]:
    if record.trained is False:
        yield "The weights are random: this is the architecture at initialisation, not a trained network."
        change = _at_outputs(record, "init")
        if change is not None and change.decided:
            yield "Fresh weights (init) have another R: their batch norms have the statistics of the images."
        return
    if record.trained is None:
        yield "Whether these weights are trained is not known."
    change, samples = _at_outputs(record, "init"), record.protocol.init_samples
    if change is None:
        return
    fresh = f"Fresh random weights (mean of {samples} draws)"
    if samples == 1:
        yield _one_draw("One draw of fresh random weights", change, "--init-samples")
    elif not change.decided:
        yield f"Whether fresh random weights (mean of {samples} draws) change R at the output is undecided."
    elif change.value > 1:
        yield f"{fresh} give a larger R at the output, by a factor of {change}."
    else:
        yield f"{fresh} give a smaller R at the output, by a factor of {change.inverse}."


def _of_others(record: Record) -> Iterator[str]:
    """Variants that are not of this package."""
    for name in record.variants:
        change = None if name in built_in_variants() else _at_outputs(record, name)
        if change is None:
            continue
        if not change.decided:
            yield f"Whether the variant {name} changes R at the output is undecided."
        elif change.value > 1:
            yield f"The variant {name} gives a larger R at the output, by a factor of {change}."
        else:
            yield f"The variant {name} gives a smaller R at the output, by a factor of {change.inverse}."


def _limits(record: Record, layers: list[LayerSensitivity], valued: list[LayerSensitivity]) -> Iterator[str]:
    missing = len(layers) - len(valued)
    if missing:
        yield f"There is no R at {missing} of {len(layers)} layers{_why(layers)}."
    if record.data.spec == "dead-leaves":
        yield "The images are synthetic (dead leaves); on photographs the numbers differ."


def _why(layers: list[LayerSensitivity]) -> str:
    reasons = list(dict.fromkeys(layer.reason for layer in layers if layer.r is None and layer.reason))
    return f" ({', '.join(reasons)})" if reasons else ""


def _at_outputs(record: Record, variant: str) -> Factor | None:
    """R of the variant over R of the original."""
    other, original = output_layer(record, variant), output_layer(record)
    return _ratio(other, original) if other and original else None


def _ratio(top: LayerSensitivity, bottom: LayerSensitivity) -> Factor | None:
    return factor(top, bottom)


def _one_draw(drawn: str, change: Factor, option: str) -> str:
    """Without an interval: from one draw nobody knows how much they differ."""
    return (
        f"{drawn} has {change.value:.3g} times that R at the output; how far draws differ is not known from "
        f"one, {option} 3 tells."
    )


def _r(layer: LayerSensitivity) -> str:
    return with_error(layer.r, layer.r_stderr)
