"""Measurements where they are used: training loops, loggers, metrics, the hub. Libraries are imported only when used."""
