"""``python -m quail_lightning``."""

import os
import sys
from pathlib import Path

# python -m searches the current folder first: a yaml.py in a colleague's run folder would be imported
if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    here = sys.path.pop(0)
    if Path(__file__).parents[1] == Path(here):
        sys.path.append(here)  # a checkout that is not installed: last, for processes that are started anew

from quail_lightning.cli import program

if __name__ == "__main__":
    program()
