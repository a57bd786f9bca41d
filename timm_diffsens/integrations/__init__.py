"""Measurements where they are used: training loops, loggers, metrics, the hub; libraries only when used."""
