"""Predicted scaling, exact curves, and what trained networks do."""
