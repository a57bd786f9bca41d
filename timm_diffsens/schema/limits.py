"""The largest numbers that options and recipes may hold: beyond what anybody measures, within a machine.

A number that sizes something is compared with its limit before anything is made of it.
"""

SIDE = 8192  # pixels of an input
CUT = 1000  # of the Fourier modes, whose number is its square
IMAGES = 10**8
BATCH = 10**6  # images
COPIES = 10_000  # of a network: shuffled, fresh, or trained
EPOCHS = 10**6
RESAMPLES = 10**6  # of the bootstrap
WORKERS = 4096  # processes, or threads of one
DEFORMATIONS = 64  # in one pass, and their sizes
SEED = 2**63 - 1
LENGTH = 2**16  # pixels of a line, in theory
LINES = 2**32  # numbers of all images there

# Of an architecture: `models.arguments.ModelArguments`.
ARGUMENTS = {
    "in_chans": 4096,
    "num_classes": 10**6,
    "size": SIDE,
    "width": 16_384,
    "depth": 1000,
    "filter": 1024,
    "stride": 1024,
}
# Of a checkpoint's recipe, which anybody may have written.
INPUT_NUMBERS = 2**22  # of one image: three channels of 1,182 x 1,182
CROP = (0.1, 2.0)


def shown(number: float) -> str:
    """A limit in a message: 10,000; what is longer to three digits or more."""
    return f"{number:,}" if isinstance(number, int) and number < 10**12 else f"{number:g}"
