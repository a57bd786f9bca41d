"""`python -m timm_diffsens.cli` does what `diffsens` does."""

from timm_diffsens.cli import main

main()
