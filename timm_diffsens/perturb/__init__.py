"""How inputs are moved: random streams, deformations and noise."""
