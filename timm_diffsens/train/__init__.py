"""Training of small networks on scale detection and CIFAR-10: recipe, data, loop, files."""
