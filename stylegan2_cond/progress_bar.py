"""Progress bars, which become lines where there is no terminal, as in the log of a batch job."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm

PRINTED = logging.getLogger("stylegan2_cond.printed")  # `folders.keep_log` writes it to a file
PRINTED.setLevel(logging.INFO)
PRINTED.propagate = False
LINE_SECONDS = 30.0  # between two lines
LINE = (
    "{desc}: {n_fmt} of {total_fmt} {unit} ({percentage:.0f}%), {elapsed} elapsed, "
    "{remaining} left, {rate_fmt}{postfix}"
)


class ProgressBar(tqdm):
    """tqdm's bar on a terminal; elsewhere, a line every half minute, and one at the end unless `leave` is False.

    The lines come from a thread, so that a long step does not look like a hang. Arguments are tqdm's.
    """

    def __init__(self, iterable: Iterable | None = None, **options: object):
        self._closed = threading.Event()
        self._as_lines = not sys.stderr.isatty()
        if self._as_lines:
            options |= {"file": _Nowhere(), "bar_format": LINE}
        super().__init__(iterable, **options)
        if self._as_lines and not self.disable:
            threading.Thread(target=self._write_lines, daemon=True).start()

    def _write_lines(self) -> None:
        while not self._closed.wait(LINE_SECONDS):
            print(self, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar or leave it, as tqdm does."""
        last = self._as_lines and self.leave and not self.disable
        self._closed.set()
        super().close()
        if last:
            print(self, file=sys.stderr, flush=True)


def write_line(text: str, file: TextIO | None = None) -> None:
    """Print lines above the bar, unbuffered, to stdout or another file, and log them."""
    file = file or sys.stdout
    tqdm.write(text, file=file)
    file.flush()
    for line in text.splitlines():
        PRINTED.info(line)


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)
