"""Who is at work: locks that the system drops when their process dies, where it has any, and numbers of processes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["can_lock", "held", "lives"]


def can_lock(path: Path) -> bool:
    """Whether the file system knows locks: not all that clusters share do. Raises OSError where nothing is written."""
    try:
        import fcntl
    except ImportError:
        return True  # Windows locks in another way
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            return error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
    return True


def held(path: Path) -> bool | None:
    """Whether a process holds the lock of this file; None where the system cannot say it.

    It asks for a shared lock and lets it go at once, on a file opened for reading: nothing is written, and whoever
    wants the lock meanwhile tries again a twentieth of a second later.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def lives(process: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True
