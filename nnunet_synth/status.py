"""`nnunet-synth status`: what there is for a dataset, by the files in nnU-Net's folders, and what to type next."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.file_path_utilities import convert_identifier_to_trainer_plans_config
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from nnunet_synth.launcher import DEFAULT_TRAINER
from nnunet_synth.pages.formatting import count
from nnunet_synth.training.settings import BLOCK, read_settings
from stylegan2_cond.data import nnunet_folders as folders
from stylegan2_cond.errors import UserError
from stylegan2_cond.folders import is_locked
from stylegan2_cond.io import Record, read_json
from stylegan2_cond.training.log_file import ERROR, read_log

SHOWN = ("kid", "coverage", "masks", "copies")  # of a snapshot's scores
MOST_COMMANDS = 2
SAME = "  # and the other options that it was begun with"
UNLESS = "  # unless it still runs"
SAMPLES = 1000  # of a first bank
LONGEST = 10_000  # characters of a line where no terminal wraps it


@dataclass(frozen=True)
class Item:
    """A configuration, generator, bank or nnU-Net: a line about it, its facts, and the command that continues it."""

    text: str
    facts: dict[str, object]
    command: str | None = None


@dataclass(frozen=True)
class Status:
    """What there is for a dataset: items of each kind, what is wrong with files, and commands."""

    dataset: str
    items: dict[str, list[Item]]
    unreadable: list[str]
    next: list[str]

    def json(self) -> dict:
        """All facts."""
        facts = {title: [item.facts for item in items] for title, items in self.items.items()}
        return {"dataset": self.dataset, **facts, "unreadable": self.unreadable, "next": self.next}

    def show(self) -> None:
        """Print a tree, and the commands."""
        tree = Tree(Text(self.dataset, "bold"))
        lines = {title: [item.text for item in items] for title, items in self.items.items()}
        for title, texts in (lines | ({"unreadable": self.unreadable} if self.unreadable else {})).items():
            branch = tree.add(Text(title, "bold"))
            for text in texts or ["none"]:
                branch.add(Text(text))
        Console(highlight=False, width=None if sys.stdout.isatty() else LONGEST).print(tree)
        if self.next:
            print("\nNext:", *self.next, sep="\n  ")


class _Bank(Record, extra="ignore"):
    """The part of a bank's record that is shown."""

    format_version: int = folders.BANK_FORMAT
    name: str
    source: dict
    origin: dict
    requested: int
    shards: tuple[dict, ...]


def read_status(dataset: str) -> Status:
    """What there is for a dataset.

    Args:
        dataset: `4` or `Dataset004_Hippocampus`.

    Raises:
        UserError: a variable is not set, or there is no such dataset.
    """
    preprocessed, results = (folders.require_folder(f"nnUNet_{name}") for name in ("preprocessed", "results"))
    name = folders.find_dataset(dataset, preprocessed)
    base, models, unreadable = preprocessed / name, results / name, []
    generators = folders.run_folder_in(Path(), name, "*", "*", "*", "*").relative_to(name) / folders.PLAN_FILE
    banks = folders.banks_folder(Path(), "*", "*") / "*" / folders.RECORD_FILE

    def read(reader: Callable[[Path], Iterator[Item]], paths: Iterable[Path]) -> list[Item]:
        found = []
        for path in sorted(paths):
            try:
                found += reader(path)
            except UserError as error:
                unreadable.append(str(error).strip())
            except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
                unreadable.append(f"{path} cannot be read ({type(error).__name__}: {error}).")
        return found

    items = {
        "preprocessed": read(_preprocessed, base.glob("*.json")),
        "splits": read(_splits, base.glob("splits_final.json")),
        "generators": read(_generator, models.glob(str(generators))),
        "banks": read(_bank, base.glob(str(banks))),
        "trainings": read(_training, models.glob("*__*__*/fold_*")),
    }
    return Status(name, items, unreadable, list(dict.fromkeys(_next(name, items)))[:MOST_COMMANDS])


def _preprocessed(path: Path) -> Iterator[Item]:
    """The configurations of a plans file; nothing for another JSON file."""
    content = read_json(path, "")
    configurations = content.get("configurations", {}) if isinstance(content, dict) else {}
    for name, configuration in configurations.items():
        holder = configuration
        for _ in configurations:
            holder = holder if "data_identifier" in holder else configurations[holder["inherits_from"]]
        cases = sum(1 for _ in (path.parent / holder["data_identifier"]).glob("*.pkl"))
        settings = read_settings(configuration, f"{path}, {name}") if BLOCK in configuration else None
        ratios = {bank or "newest": ratio for bank, ratio in settings.shares} if settings else {}
        text = f"{name}, {path.stem}: " + (count(cases, "case") if cases else "not preprocessed")
        text += "".join(
            f", bank {bank}" + (f" with ratio {ratio:g}" if ratio else "") for bank, ratio in ratios.items()
        )
        yield Item(text, {"configuration": name, "plans": path.stem, "cases": cases, "banks": ratios})


def _splits(path: Path) -> Iterator[Item]:
    folds = len(read_json(path, ""))
    yield Item(f"{count(folds, 'fold')} in {path.name}", {"folds": folds})


def _generator(path: Path) -> Iterator[Item]:
    plan, folder = read_json(path, ""), path.parent
    variant, total = str(plan["variant"]), round(1000 * plan["kimg"])
    scans = str(plan["source"]["scans"]["bank"]) if plan["source"].get("scans") else None
    log, best = read_log(folder), folders.best_snapshot_images(folder)
    images = max((line["images"] for line in log), default=0)
    waits = "finished" if images >= total else "stopped" if images else "planned"
    state = "running" if is_locked(folder) else waits
    line = next((line for line in log if line["images"] == best), {})
    scores = {name: value for name, value in line.items() if name + ERROR in line and math.isfinite(value)}
    facts = _place(plan["source"], folder) | {"variant": variant, "with_bank": scans, "state": state, "images": images}
    facts |= {"total_images": total, "best_snapshot": best, "scores": scores}
    text = f"{variant}{f' with {scans}' if scans else ''}: {state}, {images:,} of {total:,} images"
    if best is not None:
        shown = ", ".join(f"{name} {scores[name]:.2g}" for name in SHOWN if name in scores)
        text += f", best snapshot after {best:,} ({shown or 'no scores'})"
    again = _command("stylegan2-cond train", facts) if state in ("stopped", "planned") else None
    yield Item(_line(facts, text), facts, again)


def _bank(path: Path) -> Iterator[Item]:
    record, folder = _Bank.load(path), path.parent
    kind, samples = record.origin["kind"], sum(len(shard["numbers"]) for shard in record.shards)
    pairs = kind == "generators"
    done = samples if pairs else len(record.origin["scans"])
    ended = "incomplete" if done < record.requested else "complete" if samples else "empty"
    state = "filling" if is_locked(folder, inside=False) else ended
    facts = _place(record.source, folder) | {"name": record.name, "kind": kind, "state": state, "samples": samples}
    facts |= {"done": done, "requested": record.requested}
    what = "pairs" if pairs else f"scans ({kind.replace('_', ' ')}), {samples:,} entered"
    text = f"{record.name}: {state}, {done:,} of {record.requested:,} {what}"
    again = None
    if state == "incomplete" and pairs:  # imports what takes seconds
        from nnunet_synth.bank.format import BankRecord
        from nnunet_synth.bank.resume import fill_command

        again = fill_command(BankRecord.load(path))
    elif state == "incomplete":
        again = _command("nnunet-synth pseudo-label", facts, "--name", record.name, "-i", "FOLDER") + SAME
    yield Item(_line(facts, text), facts, again)


def _training(folder: Path) -> Iterator[Item]:
    """An nnU-Net of one fold; generators are named alike."""
    trainer, plans, configuration = convert_identifier_to_trainer_plans_config(str(folder.parent))
    if trainer.startswith(folders.GENERATOR):
        return
    source = {"dataset_name": folder.parents[1].name, "configuration": configuration, "plans_name": plans}
    source["fold"] = folder.name.removeprefix("fold_")
    summary, debug = folder / folders.SUMMARY, folder / "debug.json"
    dice = _number(summary, "foreground_mean", "Dice") if summary.exists() else None
    total = int(_number(debug, "num_epochs")) if debug.exists() else None
    logs = [path.read_text(errors="replace") for path in folder.glob("training_log_*.txt")]
    epochs = max((int(epoch) + 1 for log in logs for epoch in re.findall(r": Epoch (\d+)", log)), default=0)
    trained = (folder / folders.CHECKPOINTS[0]).exists()
    state = "unfinished" if not trained else "not validated" if dice is None else "finished"
    facts = _place(source, folder) | {"trainer": trainer, "state": state, "epochs": epochs, "total_epochs": total}
    facts |= {"synthetic": (folder / folders.SYNTHETIC_DATA_FILE).exists()}
    facts |= {"dice": dice if dice is not None and math.isfinite(dice) else None}
    text = f"{trainer}, {plans}: {state}, epoch {epochs:,} of {total or 'unknown'}"
    text += "" if dice is None else f", Dice {dice:.3f}"
    named = [] if trainer == DEFAULT_TRAINER else ["-tr", trainer]
    missing = {"unfinished": "--c", "not validated": "--val"}.get(state)
    again = _command("nnunet-synth train", facts, *named, missing) if missing else None
    yield Item(_line(facts, text), facts, again and again + UNLESS)


def _number(path: Path, *keys: str) -> float:
    content = read_json(path, "")
    try:
        for key in keys:
            content = content[key]
        return float(content)
    except (LookupError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path} has no number '{'.'.join(keys)}'.") from None


def _next(name: str, items: dict[str, list[Item]]) -> Iterator[str]:
    """Commands: what was stopped continues first."""
    yield from (item.command for kind in items.values() for item in kind if item.command)
    plans, generators, banks, trainings = (
        [item.facts for item in items[kind]] for kind in ("preprocessed", "generators", "banks", "trainings")
    )
    ready = [one for one in plans if one["cases"]]
    if not ready:
        yield folders.preprocess_command(name, "2d")
    elif not (generators or banks):
        yield _command("stylegan2-cond train", ready[0] | {"dataset": name, "fold": "0"})
    filled = {_where(one) for one in banks}
    trained = {_where(one) for one in trainings if one["synthetic"]}
    for one in generators:
        if one["state"] == "finished" and one["variant"] != "mask" and _where(one) not in filled:
            yield _command("nnunet-synth bank", one, "-n", str(SAMPLES))
    mixing = {one["configuration"]: one["plans"] for one in plans if one["banks"]}
    for one in banks:
        if one["state"] == "complete" and _where(one) not in trained:
            yield _command("nnunet-synth train", one | {"plans": mixing.get(one["configuration"], one["plans"])})
    for one in trainings:
        if one["synthetic"] and one["state"] == "finished":
            yield f"nnunet-synth benchmark {name} {one['configuration']} --quick"


def _place(source: dict, folder: Path) -> dict[str, object]:
    keys = {"dataset": "dataset_name", "configuration": "configuration", "plans": "plans_name", "fold": "fold"}
    return {key: str(source[theirs]) for key, theirs in keys.items()} | {"folder": str(folder)}


def _where(facts: dict) -> tuple[str, str]:
    return facts["configuration"], facts["fold"]


def _line(facts: dict, text: str) -> str:
    return f"{facts['configuration']} fold {facts['fold']}, {text}"


def _command(program: str, facts: dict, *options: str) -> str:
    place = facts["dataset"], facts["configuration"], facts["fold"]
    named = {"plans_name": facts["plans"], "variant": facts.get("variant", "pair"), "with_bank": facts.get("with_bank")}
    return folders.fold_command(program, *place, *options, **named)
