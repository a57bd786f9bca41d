"""Measurements where they are used: training loops, loggers, metrics, the hub; each library only when used."""
