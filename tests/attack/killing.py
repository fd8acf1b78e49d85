"""Commands that are killed at any moment, and run again until they end well."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Moment = Callable[[float], bool]  # of the seconds since the start: is it now?
POLL_SECONDS = 0.0005
LIMIT_SECONDS = 3600.0  # a benchmark beside other work took more than ten minutes


@dataclass
class Command:
    """A command's own `main`, run in a fork that leads a process group of its own; stdout and stderr are kept.

    Attributes:
        prepare: called in the child before `main`; makes things small, or sets the environment.
    """

    main: Callable[[], None]
    arguments: tuple[str, ...]
    log: Path
    prepare: Callable[[], object] = lambda: None
    process: int = field(default=0, init=False)

    def start(self) -> None:
        """Begin; `process` leads the group."""
        if (child := os.fork()) == 0:
            self._run()
        self.process = child

    def _run(self) -> None:
        code = 1
        try:
            os.setsid()
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for number, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, file), (2, file)):
                os.dup2(target, number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_DFL if name == signal.SIGTERM else signal.default_int_handler)
            sys.argv = ["command", *self.arguments]
            self.prepare()
            self.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    def ended(self) -> int | None:
        """The exit code; None while it runs. Negative where a signal ended it."""
        child, status = os.waitpid(self.process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if child else None

    def wait(self) -> int:
        """Wait for the end."""
        until = time.monotonic() + LIMIT_SECONDS
        while (code := self.ended()) is None:
            assert time.monotonic() < until, f"{self.arguments} does not end; see {self.log}"
            time.sleep(0.02)
        return code

    def kill(self, *, group: bool = True) -> None:
        """SIGKILL to the whole group, or to the leader alone."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)

    def run(self) -> int:
        """Start, and wait for the end."""
        self.start()
        return self.wait()

    def killed_at(self, moment: Moment, *, group: bool = True) -> int | None:
        """Start, and kill at a moment: None; the exit code where it ended before."""
        self.start()
        began = time.monotonic()
        while (code := self.ended()) is None:
            if moment(time.monotonic() - began):
                self.kill(group=group)
                return None
            assert time.monotonic() < began + LIMIT_SECONDS
            time.sleep(POLL_SECONDS)
        return code

    @property
    def told(self) -> str:
        """All that it printed, every time that it ran."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def after(seconds: float) -> Moment:
    """So long after the start."""
    return lambda since: since >= seconds


def when_there_is(folder: Path, pattern: str, number: int = 1) -> Moment:
    """When a file of this pattern has appeared below a folder for the given number of times."""
    state = {"there": False, "times": 0}

    def now(_: float) -> bool:
        there = next(folder.glob(pattern), None) is not None
        state["times"] += there and not state["there"]
        state["there"] = there
        return there and state["times"] >= number

    return now


def kill_and_finish(command: Command, moments: list[Moment]) -> int:
    """Kill the same command at each moment in turn, then let it end; how often it was killed.

    Moments that a command that had ended never came to are left out.
    """
    kills = 0
    for moment in moments:
        if (code := command.killed_at(moment)) is None:
            kills += 1
        else:
            assert code == 0, command.told[-3000:]
    assert command.run() == 0, command.told[-3000:]
    assert "Traceback" not in command.told, command.told[-3000:]
    return kills


def leftovers(folder: Path) -> list[str]:
    """Files that only a process under way may have."""
    return [
        str(path.relative_to(folder))
        for pattern in ("*.tmp", ".filling_*", ".exporting_*")
        for path in folder.rglob(pattern)
    ]
