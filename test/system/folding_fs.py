"""A folder seen through a file system that takes names of another case or another Unicode form for one: folding_fs.py BACKING MOUNT.

It stands in for the ones of macOS, and needs the Debian packages python3-fusepy and fuse3 (or fuse).
"""

import errno
import os
import sys
import unicodedata

try:
    import fusepy as fuse
except ImportError:
    import fuse


def folded(name):
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


class Folding(fuse.Operations):
    def __init__(self, backing):
        self.backing = backing

    def found(self, path):
        """Where it is, under whatever spelling; where it would be, if it is nowhere."""
        at = self.backing
        for part in filter(None, path.split("/")):
            names = os.listdir(at) if os.path.isdir(at) else []
            at = os.path.join(at, next((name for name in names if folded(name) == folded(part)), part))
        return at

    def getattr(self, path, handle=None):
        try:
            status = os.lstat(self.found(path))
        except OSError as error:
            raise fuse.FuseOSError(error.errno) from None
        fields = ("mode", "ino", "nlink", "uid", "gid", "size", "atime", "mtime", "ctime")
        return {f"st_{field}": getattr(status, f"st_{field}") for field in fields}

    def readdir(self, path, handle):
        return [".", "..", *os.listdir(self.found(path))]

    def mkdir(self, path, mode):
        if os.path.lexists(self.found(path)):
            raise fuse.FuseOSError(errno.EEXIST)
        os.mkdir(self.found(path), mode)

    def create(self, path, mode, info=None):
        return os.open(self.found(path), os.O_RDWR | os.O_CREAT, mode)

    def open(self, path, flags):
        return os.open(self.found(path), flags)

    def read(self, path, size, offset, handle):
        return os.pread(handle, size, offset)

    def write(self, path, data, offset, handle):
        return os.pwrite(handle, data, offset)

    def release(self, path, handle):
        os.close(handle)

    def rename(self, old, new):
        os.rename(self.found(old), self.found(new))

    def unlink(self, path):
        os.unlink(self.found(path))

    def rmdir(self, path):
        os.rmdir(self.found(path))

    def truncate(self, path, length, handle=None):
        os.truncate(self.found(path), length)

    def utimens(self, path, times=None):
        os.utime(self.found(path), times)

    def chmod(self, path, mode):
        os.chmod(self.found(path), mode)

    def access(self, path, mode):
        return 0

    def flush(self, path, handle):
        return 0

    def fsync(self, path, datasync, handle):
        return 0

    def fsyncdir(self, path, datasync, handle):
        return 0


if __name__ == "__main__":
    fuse.FUSE(Folding(sys.argv[1]), sys.argv[2], foreground=True, nothreads=True, attr_timeout=0, entry_timeout=0, use_ino=True)
