"""What a pod has recorded: bytes at absolute offsets on disk, so that whoever fetches them can ask again for what did not arrive."""

from __future__ import annotations

import os
from pathlib import Path

READ_MAX = 1 << 20


class Spool:
    """An append-only file of bounded size; not for several threads."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.size = 0
        self.dropped = 0  # pieces that did not fit
        self._bytes_max = bytes_max
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def append(self, piece: bytes) -> bool:
        """Keep a piece whole; False, and counted, if it does not fit or the disk is full."""
        if self.size + len(piece) > self._bytes_max:
            self.dropped += 1
            return False
        written = 0
        try:
            while written < len(piece):
                written += os.pwrite(self._file, piece[written:], self.size + written)
        except OSError:
            self.dropped += 1
            return False
        self.size += len(piece)
        return True

    def read(self, start: int, most: int = READ_MAX) -> bytes:
        """Up to `most` bytes from an offset; fewer than there are is no end, b"" is. Raises ValueError beyond the end."""
        if not 0 <= start <= self.size:
            raise ValueError(f"offset {start} is not within 0 and {self.size}")
        return os.pread(self._file, min(most, self.size - start), start)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)
