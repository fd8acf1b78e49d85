"""A process beside the training that draws new shards into the bank while nnU-Net trains."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from nnunet_synth.bank.format import RECORD_FILE, BankRecord, verify_shards
from stylegan2_cond.errors import UserError

LOG_FILE = "growing.log"


class Refresher:
    """Starts the process, and tells how many shards it has added that are whole.

    Args:
        folder: of the bank.
        known: its record when training began.
        tell: takes a line for nnU-Net's log.
    """

    def __init__(self, folder: Path, known: BankRecord, tell: Callable[[str], None]):
        self.folder = folder
        self._tell = tell
        self._first, self._verified = len(known.shards), 0
        self._process: subprocess.Popen | None = None

    def start(self, samples: int, device: str) -> None:
        """Let the bank grow until it holds so many samples. The process ends with this one, whatever happens to it."""
        command = [sys.executable, "-m", "nnunet_synth.bank.grow", str(self.folder), str(samples), device]
        with (self.folder / LOG_FILE).open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._tell(f"The bank grows to {samples} samples while this training goes on, on {device}.")

    def new_shards(self) -> int:
        """Shards that were added since training began; those that are damaged, and all after them, do not count."""
        self._look_after()
        try:
            record = BankRecord.load(self.folder / RECORD_FILE)
            for shard in record.shards[self._first + self._verified :]:
                verify_shards(self.folder, record, [shard])
                self._verified += 1
        except UserError as error:
            self._tell(f"The bank did not grow: {error}")
        return self._verified

    def stop(self) -> None:
        """End the process; whole shards stay."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        self._process = None

    def _look_after(self) -> None:
        """Tell once how the process ended."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        self._process = None
        if code:
            lines = (self.folder / LOG_FILE).read_text(errors="replace").strip().splitlines() or ["no word"]
            self._tell(f"The bank stopped growing (code {code}): {lines[-1]} Training goes on with what there is.")
        else:
            self._tell("The bank has grown to its full size.")
