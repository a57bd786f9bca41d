"""Normals from Philox 4x32-10: a reference, and two faster ones that are optional."""
