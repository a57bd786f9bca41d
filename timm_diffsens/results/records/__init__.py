"""Records on disk and as tables."""
