"""What the estimator needs of a batch, summed in one pass."""
