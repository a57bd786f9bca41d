"""Where architectures come from: one file a library, found by `models.architectures.find_architecture`."""
