"""On what: image sets and samples of them."""
