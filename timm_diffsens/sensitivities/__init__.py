"""D, G and R: the equations, the estimator, the probe, the pass over the images."""
