"""Filters on the eigenvectors of the grid Laplacian."""
