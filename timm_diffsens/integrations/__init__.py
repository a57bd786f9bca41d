"""Measurements in other tools: training loops, loggers, metrics. Each library is imported only when used."""
