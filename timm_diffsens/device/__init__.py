"""The process and the device: allocator, threads, evaluation mode, precision, environment."""
