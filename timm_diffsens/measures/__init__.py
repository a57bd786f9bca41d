"""What comes out: sensitivities, their estimators, the probe, filter spectra."""
