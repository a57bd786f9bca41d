"""`python -m timm_diffsens`: the command line."""

from timm_diffsens.cli import main

if __name__ == "__main__":
    main()
