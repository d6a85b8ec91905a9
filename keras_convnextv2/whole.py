"""Files and folders for others: they stand beside their destination until they are whole, then take its name.

What a killed call left there is removed by the next one to the same destination.
"""

import contextlib
import errno
import itertools
import math
import os
import pathlib
import re
import shutil

_LEFT = re.compile(r"\.(?P<pid>[0-9]+)-[0-9]+\.(?P<kind>part|old)\.(?P<name>.+)")  # what stands beside a destination
ENTRY = 1 << 13  # bytes that HDF5 needs beside the numbers of a weight: 1900 to 2300 were seen
FULL = 1 << 16  # bytes: a disk with less is why something could not be written
_calls = itertools.count()  # two calls of one process, in threads, share no name


def write_whole(writers):
    """{path: function that writes it}: all files under other names first, so that nothing half-written stays."""
    parts = {path: _beside(path, "part") for path in writers}
    try:
        for path, write in writers.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear(path)
            with full_disk_named(path):
                write(parts[path])
                _flush(parts[path])
        for path, part in parts.items():
            os.replace(part, path)
        for folder in {path.parent for path in writers}:
            _flush(folder)  # the new names themselves
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path, mark):
    """Gives the folder to write into; at the end it takes the place of the one at `path`.

    Args:
        path: the destination.
        mark: a file that a folder there must hold to be replaced.
    Raises:
        ValueError: something else is there.
        OSError: the disk is full.
    """
    path = pathlib.Path(path).expanduser()
    check_replaceable(path, mark)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    part, old = _beside(path, "part"), _beside(path, "old")
    try:
        with full_disk_named(path):
            yield part
        if path.exists():
            os.rename(path, old)
        os.rename(part, path)
    finally:
        if old.exists() and not path.exists():  # interrupted between the two, or nothing was written
            os.rename(old, path)
        for rest in (part, old):
            shutil.rmtree(rest, ignore_errors=True)


def check_replaceable(path, mark):
    """Raises where something else than an earlier export stands."""
    path = pathlib.Path(path).expanduser()
    if path.exists() and not (path / mark).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"an export replaces an earlier one ({mark}) only. Received: {str(path)!r}, which is none")


def _flush(path):
    """Waits until a file or a folder of names has reached the disk, where the system can do that."""
    if os.name != "posix":
        return  # Windows opens no folders, and flushes only what is open for writing
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _beside(path, kind):
    return path.with_name(f".{os.getpid()}-{next(_calls)}.{kind}.{path.name}")


def _clear(path):
    """Remove what processes that no longer run left beside `path`; give back what they had moved away from it."""
    for rest in path.parent.iterdir():
        found = _LEFT.fullmatch(rest.name)
        if not found or found["name"] != path.name or _running(int(found["pid"])):
            continue
        if found["kind"] == "old" and not path.exists():
            os.rename(rest, path)
        elif rest.is_dir():
            shutil.rmtree(rest, ignore_errors=True)
        else:
            rest.unlink(missing_ok=True)


def clear_folder(folder):
    """What `_clear` does, for every destination in a folder into which no other machine writes."""
    left = {found["name"] for rest in folder.iterdir() if (found := _LEFT.fullmatch(rest.name))}
    for name in left:
        _clear(folder / name)


def _running(pid):
    if os.name != "posix":
        return True  # Windows has no harmless way to ask
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextlib.contextmanager
def full_disk_named(path):
    """What fails within it for want of space, or without a name, fails in one line with the path."""
    try:
        yield
    except Exception as error:  # each library that writes has its own, and torch's says nothing of a disk
        if _is_of_a_full_disk(error, path.parent):
            raise full_disk(path) from error
        if isinstance(error, OSError) and error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _is_of_a_full_disk(error, folder):
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "no space left" in str(error).lower():
        return True
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < FULL
    return False


def write_weights(model, path):
    """`model.save_weights`, where there is room: HDF5 that meets a full disk while it writes ends the process."""
    size = sum(4 * math.prod(variable.shape) for variable in model.weights)
    _require_room(path, size + ENTRY * len(model.weights))
    model.save_weights(path)


def _require_room(path, size):
    """Raises OSError where a new file of so many bytes has no room."""
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:  # Windows, macOS
            pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise  # else a file system that cannot tell


def full_disk(path):
    """The one line for it."""
    return OSError(errno.ENOSPC, "the disk is full, nothing was written", str(path))
