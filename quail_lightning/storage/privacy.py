"""Who may read what is written: private text its owner alone, an exported model whoever the umask lets.

Private is whatever the text can be read back from: the reference cache, the logs of an evaluation, training
checkpoints, and a run's config and command, which may name persons. Figures are not.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

FILE, FOLDER = 0o600, 0o700


def private_folder(folder: Path, root: Path) -> Path:
    """Make a folder that its owner alone can enter, whatever the umask; those between it and ``root`` likewise.

    Args:
        folder: at or below ``root``; one that is there is made private.
        root: made private where it is missing, and left as it is where the user made it. What lies above it gets
            the umask's permissions, since exported models lie there too.

    Returns:
        the folder.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    path = root
    try:
        root.mkdir(FOLDER)
    except FileExistsError:
        root.mkdir(exist_ok=True)  # refuses a file
    else:
        make_private(root)
    for part in folder.relative_to(root).parts:
        path /= part
        path.mkdir(FOLDER, exist_ok=True)
        make_private(path)
    return folder


def make_private(path: Path) -> None:
    """Take everybody's permissions but the owner's from a file or folder."""
    wanted = FOLDER if path.is_dir() else FILE
    if stat.S_IMODE(path.stat().st_mode) == wanted:
        return
    try:
        path.chmod(wanted)
    except OSError as error:
        print(f"{path} cannot be made private ({error.strerror})", file=sys.stderr, flush=True)


def open_private(path: Path) -> int:
    """Descriptor of a new file that its owner alone can read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE)
    os.fchmod(descriptor, FILE)
    return descriptor


def share_by_umask(folder: Path, mode: int) -> None:
    """Give a folder, and all that lies below it, the permissions that the umask leaves.

    Libraries write some files for their owner alone (safetensors), which a service of another account cannot load.

    Args:
        folder: written by this process.
        mode: permissions of a folder that was just made beside it.
    """
    folder.chmod(mode)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)
