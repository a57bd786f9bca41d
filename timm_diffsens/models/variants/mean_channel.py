"""The network as it is, seen through the average over channels."""

from timm_diffsens.registry import Look, register


@register(
    "variants",
    "mean-channel",
    help="each layer's average over channels",
    look=Look("#009E73", (9, 3, 2, 3), "triangle-up"),
    order=2,
)
class MeanChannel:
    """The network itself; what is measured of a layer is its average over channels."""

    copies = 0
    channel_averages = True
