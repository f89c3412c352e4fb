"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from contextlib import suppress


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that at any moment there is the old one or the new one, whole.

    Parameters
    ----------
    path : str or path
        Where to.  A directory, a device or a pipe is refused, a symbolic link followed.
    content : bytes
        What.

    Raises
    ------
    OSError
        If it cannot be written; the old file is as it was then, and nothing is left beside it.
    """
    shown = os.fspath(path)
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), shown)
    if mode is not None and not stat.S_ISREG(mode):  # the rename would put a file in the place of /dev/null
        raise OSError(errno.EINVAL, "expected a regular file, got a device or a pipe", shown)
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), shown)
    temporary = os.path.join(folder, f".bptt-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(FileNotFoundError):  # never made, or renamed already when a signal came
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, shown) from error  # a name that the user knows
        raise
    if sys.platform != "win32":  # where folders have no descriptors
        # The rename is on the disk only when the folder is.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
