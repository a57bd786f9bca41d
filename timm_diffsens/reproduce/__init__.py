"""The figures and tables of arXiv 2210.01506, made again: train or load, measure, draw, judge each claim."""
