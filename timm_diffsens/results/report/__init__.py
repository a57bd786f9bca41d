"""Text, charts and files made from records."""
