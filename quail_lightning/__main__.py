"""``python -m quail_lightning``."""

from quail_lightning.cli import main

if __name__ == "__main__":
    main()
