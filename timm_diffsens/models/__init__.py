"""What is measured: models, their layers and their variants."""
