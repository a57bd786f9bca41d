"""What is measured of a network beside itself: one file a variant, found by `registry.find("variants", ...)`.

`entry.build(shuffles=..., shuffle_linear=..., init_samples=...)` gives the variant: of a class, an instance
made with those of these options that it takes; a function `variant(model, generator=None)` is the variant
itself. It gives a changed copy of a network, which stays as it is:
`variant(model, **registry.accepted(variant, generator=..., factory=...))`, where `generator` is numpy's and
`factory`, None if there is none, makes the architecture with fresh random weights.

Optional attributes:
    copies: over how many changed copies its values are averaged (1), each from a random stream of its own.
        0: nothing is changed, and its values are those of the network itself.
    channel_averages: its values are those of each layer's average over channels (False).
    spectra: the filter spectra of its first copy are recorded (False).
    stream: purpose of the random streams of its copies (its name).
    fresh: its copies have never seen an image, so running statistics of their norms are set on the measured
        ones before they are measured (False).
    convolution_modules: it changes convolution modules alone; functional convolutions stay, which is said,
        and a weight that a forward of the copy writes over is an error (False).

The files import torch inside of functions alone, so that charts can read how a variant looks without it.
"""
