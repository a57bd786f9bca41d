"""Adapters to where records and measurements are used; each is optional and imported only when it is."""
