"""Running installed commands one after the other: shown, logged, timed, and not run again once done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stylegan2_cond.errors import Stopped, UserError
from stylegan2_cond.progress_bar import ProgressBar

LOG_LINES = 15  # of a failed command that are shown


@dataclass
class Steps:
    """Commands that are run in one environment, with their logs and marks in one folder.

    Attributes:
        folder: logs go to `logs/`, and an empty file `done/<name>` marks a finished step.
        variables: environment variables beyond this process's own.
        seconds: wall time of each step that was run by this object.
    """

    folder: Path
    variables: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, title: str, command: Sequence[str], *, own_bar: bool = False) -> None:
        """Run a command, unless a run before has finished it.

        Args:
            name: of the log and of the mark.
            title: what the step is for, as the user reads it.
            command: an installed command and its arguments.
            own_bar: the command draws a progress bar of its own; others are shown by the seconds that pass.

        Raises:
            UserError: the command failed; with the end of its log.
            Stopped: after Ctrl-C.
        """
        if self.is_done(name):
            print(f"· {title}: done before")
            return
        print(f"\n▶ {title}\n  $ {' '.join(command)}", flush=True)
        began = time.monotonic()
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            code = self._wait(command, log, own_bar)
        except KeyboardInterrupt:
            raise Stopped("Stopped. The same command goes on with this step.") from None
        if code:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise UserError(f"{command[0]} ended with code {code}:\n{end}\nThe whole log: {log}")
        self.mark_done(name)
        self.seconds[name] = time.monotonic() - began
        print(f"  {self.seconds[name]:.0f} s, log: {log}")

    def is_done(self, name: str) -> bool:
        return (self.folder / "done" / name).exists()

    def mark_done(self, name: str) -> None:
        (self.folder / "done").mkdir(parents=True, exist_ok=True)
        (self.folder / "done" / name).touch()

    def _wait(self, command: Sequence[str], log: Path, own_bar: bool) -> int:
        program = shutil.which(command[0], path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if program is None:
            raise UserError(f"{command[0]} is not installed beside {sys.executable}. Type: pip install nnunet-synth")
        with log.open("wb") as file:
            process = subprocess.Popen(
                [program, *command[1:]],
                env=os.environ | dict(self.variables),
                stdout=file,
                stderr=None if own_bar else file,
            )
            with ProgressBar(
                bar_format="  {elapsed}", leave=False, disable=own_bar or not sys.stderr.isatty()
            ) as clock:
                while True:
                    try:
                        return process.wait(timeout=1)
                    except subprocess.TimeoutExpired:
                        clock.refresh()
                    except KeyboardInterrupt:
                        process.wait()  # the terminal told the command too
                        raise
