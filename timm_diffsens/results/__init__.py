"""Records and what is made of them. Nothing here imports torch."""
