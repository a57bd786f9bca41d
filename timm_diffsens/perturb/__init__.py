"""How inputs are perturbed: random streams, deformations and noise."""
