"""Correlations over records."""
