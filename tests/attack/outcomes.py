"""What became of a call: refused clearly, taken, a traceback, a hang, or a crash. Each call has its own process."""

from __future__ import annotations

import collections
import contextlib
import gc
import io
import os
import pickle
import re
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import stylegan2_cond
from stylegan2_cond.errors import Stopped, UserError

HOUSE = Path(stylegan2_cond.__file__).parent.parent
LONGEST_MESSAGE = 20_000  # what was typed may stand in it
SPARE_MEMORY = 6 * 2**30  # bytes of addresses that a call may take
KINDS = ("clear", "taken", "traceback", "hang", "crash")


@dataclass(frozen=True)
class Outcome:
    """`kind` is one of `KINDS`; `told` is the message, where the traceback ended, or what the call returned."""

    kind: str
    told: object = None

    @property
    def bad(self) -> bool:
        return self.kind not in ("clear", "taken")


def outcome_of(call: Callable[[], object], limit: float = 60.0) -> Outcome:
    """Run `call` in a fork of this process, in a process group of its own, for `limit` seconds at most."""
    gc.freeze()  # else a collection in the child would copy most of this process's memory
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        _child(call, writing)
    os.close(writing)
    content, until = b"", time.monotonic() + limit
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while (left := until - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
            if not (part := pipe.read(2**16)):
                break
            content += part
        else:
            _kill(child)
            return Outcome("hang", f"after {limit:g} s")
    _kill(child)
    return pickle.loads(content) if content else Outcome("crash")


def run_main(main: Callable[[], None], *arguments: str) -> Callable[[], object]:
    """A call of a command's `main` that raises what the command tells its user, and returns what it prints."""

    def call() -> str:
        printed, told = io.StringIO(), io.StringIO()
        sys.argv = ["command", *arguments]
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
                main()
        except SystemExit as end:
            if end.code not in (0, None):
                error = told.getvalue()
                if "Traceback" in error:
                    raise RuntimeError(error) from None
                raise UserError(
                    re.sub(r"\s*\n\s*", " ", error[error.find("Error") :].strip()) or str(end.code)
                ) from None
        return printed.getvalue()

    return call


def _child(call: Callable[[], object], writing: int) -> None:
    """The rest of a forked process."""
    try:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(nothing), "w") for _ in range(2))  # pytest's are shared with it
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_MEMORY, used + SPARE_MEMORY))
        outcome = _judged(call)
    except BaseException as error:
        outcome = Outcome("traceback", repr(error))
    with contextlib.suppress(BaseException), os.fdopen(writing, "wb") as pipe:
        pipe.write(pickle.dumps(outcome))
    os._exit(0)


def _judged(call: Callable[[], object]) -> Outcome:
    try:
        returned = call()
        return Outcome("taken", returned if isinstance(returned, (str, bytes, int, float, tuple)) else None)
    except (UserError, Stopped) as error:
        text = str(error)
        if not text.strip() or "\n" in text.strip() or len(text) > LONGEST_MESSAGE:
            return Outcome("traceback", f"a message that is not one line: {text[:300]!r}")
        return Outcome("clear", text)
    except BaseException as error:
        return Outcome("traceback", f"{_place(error)} {type(error).__name__}: {str(error)[:200]}")


def _place(error: BaseException) -> str:
    """The last line of ours that a traceback names."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if f"{HOUSE}/stylegan2_cond" in frame.filename or f"{HOUSE}/nnunet_synth" in frame.filename
    ]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _kill(child: int) -> None:
    """End a child and all of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


class Tally:
    """Outcomes by input, as a table."""

    def __init__(self) -> None:
        self.counts: dict[str, collections.Counter] = {}
        self.seconds: dict[str, float] = {}
        self.bad: list[tuple[str, str, Outcome]] = []

    def add(self, row: str, what: str, outcome: Outcome) -> None:
        """Count an outcome of the input `row`; `what` was done to it."""
        self.counts.setdefault(row, collections.Counter())[outcome.kind] += 1
        if outcome.bad:
            self.bad.append((row, what, outcome))

    def lines(self) -> Iterator[str]:
        """A row for each input, one for all, and how each bad outcome ended."""
        width = max(map(len, [*self.counts, "all"]))
        yield f"{'input -> entry':{width}}  tried " + " ".join(f"{kind:>9}" for kind in KINDS) + "   seconds"
        for row, counts in [*self.counts.items(), ("all", sum(self.counts.values(), collections.Counter()))]:
            seconds = self.seconds.get(row, sum(self.seconds.values()))
            figures = " ".join(f"{counts[kind]:9}" for kind in KINDS)
            yield f"{row:{width}} {sum(counts.values()):6} {figures} {seconds:9.1f}"
        for (row, end), times in collections.Counter((row, str(o.told)[:160]) for row, _, o in self.bad).most_common():
            yield f"{row}: {end}" + (f" ×{times}" if times > 1 else "")
