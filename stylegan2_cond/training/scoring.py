"""Scores of snapshots: computed between steps on a CPU, and by a process of its own where a GPU trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from stylegan2_cond.data.nnunet_dataset import Preprocessed
from stylegan2_cond.data.patch_sampler import PatchSampler
from stylegan2_cond.errors import UserError
from stylegan2_cond.planning import Plan, open_patches
from stylegan2_cond.snapshot import PairGenerator, load_generator, open_same_cases
from stylegan2_cond.snapshot.mask_sources import RealMasks
from stylegan2_cond.training.model_selection import REAL, flatten_results
from stylegan2_cond.training.snapshot_evaluation import SnapshotEvaluator

LOW_PRIORITY = 10  # of 19, the lowest


class SnapshotScorer:
    """Scores the snapshots of one training.

    Args:
        preprocessed: dataset with the training cases.
        plan: of the generator.
        real: sampler of the training patches.
    """

    def __init__(self, preprocessed: Preprocessed, plan: Plan, real: PatchSampler):
        self.masks = RealMasks(real, plan, "deformed") if plan.given_mask else None
        self._evaluator = SnapshotEvaluator(preprocessed, plan)

    def score(self, generator: PairGenerator) -> dict[str, float]:
        """Scores by name, as `flatten_results` has them, and those of real patches; none if samples are not finite."""
        scores = flatten_results(self._evaluator.evaluate(generator, self.masks))
        if scores:
            scores |= flatten_results({name + REAL: result for name, result in self._evaluator.real.items()})
        return scores


class ScoringProcess:
    """Scores snapshots on the CPU at low priority, in a process that ends when the training does, however that ends."""

    def __init__(self):
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="scores")
        self._process: subprocess.Popen[str] | None = None

    def submit(self, snapshot: Path) -> Future[dict[str, float]]:
        """The scores of a snapshot's folder, as by `SnapshotScorer`.

        Returns:
            a future; it has a `UserError` if the process died.
        """
        return self._asking.submit(self._ask, snapshot)

    def _ask(self, snapshot: Path) -> dict[str, float]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for the training, which then ends this
            )
        try:
            print(snapshot.resolve(), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise UserError(f"The process that scores snapshots ended with exit code {self._process.wait()}.")
        return json.loads(answer)

    def close(self) -> None:
        """End the process; scores that it has not computed are lost."""
        self._asking.shutdown(wait=False, cancel_futures=True)
        if self._process:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Score each snapshot that standard input names, one JSON object a line."""
    os.nice(LOW_PRIORITY)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed
    scorer = None
    for line in sys.stdin:
        generator = load_generator(line.rstrip("\n"))
        if scorer is None:
            preprocessed = open_same_cases(generator.plan)
            scorer = SnapshotScorer(preprocessed, generator.plan, open_patches(preprocessed, generator.plan))
        print(json.dumps(scorer.score(generator)), file=answers, flush=True)


if __name__ == "__main__":
    main()
