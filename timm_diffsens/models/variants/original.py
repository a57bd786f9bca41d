"""The network as it is."""

from timm_diffsens.registry import Look, register


@register("variants", "original", help="the network as it is", look=Look("#0072B2"), order=0)
class Original:
    """The network itself."""

    copies = 0
    spectra = True
