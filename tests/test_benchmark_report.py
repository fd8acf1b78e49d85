"""A report promises to be made of the tables alone, to leave out nothing silently, and to say what they lack."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from html_page import read_page
from made_benchmark import make_benchmark
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_synth.benchmark.analysis import CLASSES, analyse
from nnunet_synth.benchmark.design import make_training_sets
from nnunet_synth.benchmark.protocol import Effect
from nnunet_synth.benchmark.report.page import write_report
from nnunet_synth.benchmark.report.text import notes
from nnunet_synth.benchmark.report.verdict import conclude
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.pages.formatting import interval, points
from stylegan2_cond.errors import UserError

FAILED = ("pairs", 8, 1, 0)
ARMS = {"da5": 0.004, "pairs": 0.05, "half": -0.05, "oracle": 0.1}


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory):
    """A strong effect, a harmful arm, a failed run and one that never began."""
    folder = make_benchmark(
        tmp_path_factory.mktemp("benchmark"),
        ARMS,
        sizes=(4, 8),
        training_sets=12,
        cases=8,
        missing={FAILED: "CUDA | out of memory", ("da5", 4, 0, 0): ""},
    )
    write_report(folder)
    return folder


def test_the_report_is_made_of_the_tables_alone_and_twice_the_same(benchmark, tmp_path):
    for name in ("design.json", "runs.csv", "scores.csv"):
        (tmp_path / name).write_bytes((benchmark / name).read_bytes())
    assert write_report(tmp_path) == tmp_path / "report.html"
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 3 + 4 + 1
    for path in made:
        assert (tmp_path / path).read_bytes() == (benchmark / path).read_bytes(), path


def test_the_command_writes_it_again_and_prints_it_as_json(benchmark, tmp_path, run_here):
    for name in ("design.json", "runs.csv", "scores.csv"):
        shutil.copy(benchmark / name, tmp_path)
    code, printed, _ = run_here("nnunet-synth", "benchmark", "--report-only", "--json", "-o", str(tmp_path))
    assert code == 0
    assert json.loads(printed) == json.loads((benchmark / "report.json").read_text())
    assert (tmp_path / "report.html").read_bytes() == (benchmark / "report.html").read_bytes()


def test_the_sentence_says_where_by_how_much_at_what_cost(benchmark):
    analysis = analyse(read_benchmark(benchmark))
    row, sentence = analysis.row("pairs", 4), conclude(analysis).sentence
    assert row["difference"] == pytest.approx(0.05, abs=0.01)  # as it was made
    amount = points(row["difference"], sign=False)
    assert f"4 training cases, “Pairs, ratio 0.25” raises mean Dice by {amount} points" in sentence
    assert interval(row["low"], row["high"], scale=100) in sentence
    assert sentence.startswith("Some synthetic pairs help on Dataset004_Hippocampus (2d)")
    assert "12 training sets" in sentence
    assert "2.5 times" in sentence  # 400 s of nnU-Net, and 600 s of the generator
    assert "“Pairs, ratio 0.5” harms" in sentence
    assert f"{100 * row['share_of_oracle']:.0f} % of what true labels" in sentence
    assert row["share_of_oracle"] == pytest.approx(0.5, abs=0.1)
    for file in ("report.md", "report.html"):
        assert sentence in (benchmark / file).read_text()
    written = json.loads((benchmark / "report.json").read_text())
    assert (written["verdict"], written["sentence"]) == ("helps", sentence)
    (again,) = (one for one in written["arms"] if (one["arm"], one["size"]) == ("pairs", 4))
    assert again["p_holm"] == pytest.approx(row["p_holm"])
    assert next(one for one in written["arms"] if one["arm"] == "nnunet")["p"] is None


def test_a_run_that_was_paused_does_not_change_what_arms_cost(benchmark, tmp_path):
    for name in ("design.json", "runs.csv", "scores.csv"):
        shutil.copy(benchmark / name, tmp_path)
    runs = pd.read_csv(tmp_path / "runs.csv")
    slowest = runs.loc[runs["arm"] == "pairs", "seconds_nnunet"].idxmax()
    runs.loc[slowest, "seconds_nnunet"] += 86400
    runs.to_csv(tmp_path / "runs.csv", index=False)
    costs = [analyse(read_benchmark(folder)).costs["pairs"] for folder in (tmp_path, benchmark)]
    assert costs[0] == costs[1]


def test_statistics_are_of_training_sets_and_of_paired_ones_only(benchmark):
    table = pd.read_csv(benchmark / "statistics.csv", dtype={"size": str, "label": str})
    assert len(table) == 3 * 5 * 2 * 3  # metrics, arms, sizes, labels and mean
    table = table.set_index(["metric", "arm", "size", "label"])
    scores = pd.read_csv(benchmark / "scores.csv")
    runs = scores[scores["size"] == 8].groupby(["arm", "training_set", "run"])["dice"].mean()
    sets = runs.groupby(["arm", "training_set"]).mean().unstack("arm")
    gains = (sets["pairs"] - sets["nnunet"]).dropna()
    row, students = table.loc[("dice", "pairs", "8", CLASSES)], stats.ttest_1samp(gains, 0)
    assert row["sets"] == row["runs"] == len(gains) == 11
    assert row["difference"] == pytest.approx(gains.mean(), abs=1e-6)
    assert [row["low"], row["high"]] == pytest.approx(students.confidence_interval(0.95), abs=1e-6)
    tested = table["p"].dropna()
    corrected = multipletests(tested, method="holm")[1]
    assert table.loc[tested.index, "p_holm"].to_numpy() == pytest.approx(corrected, rel=1e-5)
    assert len(tested) == 4 * 2  # arms, sizes: one family
    assert table.loc[("dice", "nnunet", "8", CLASSES), "runs"] == 36
    assert table.loc[("hd95", "pairs", "8", "1"), "difference"] < 0  # mm; nearer


def test_runs_that_are_missing_are_named(benchmark):
    for file in ("report.md", "report.html"):
        text = (benchmark / file).read_text()
        assert "2 of 168" in text
        assert "out of memory" in text
    assert (
        "| Pairs, ratio 0.25 | 8 | 1 | 0 | failed | CUDA \\| out of memory |" in (benchmark / "report.md").read_text()
    )
    assert "| Stronger augmentation (DA5) | 4 | 0 | 0 | missing |  |" in (benchmark / "report.md").read_text()


def test_every_figure_is_there_with_words_for_those_who_cannot_see_it(benchmark):
    markdown = (benchmark / "report.md").read_text()
    for alt, path in re.findall(r"!\[(.*?)\]\((.*?)\)", markdown):
        assert len(alt) > 60
        assert (benchmark / path).stat().st_size > 5000
    assert markdown.count("![") == 1
    page = read_page((benchmark / "report.html").read_text())  # whole, and needs nothing from elsewhere
    assert set(re.findall(r"!\[(.*?)\]", markdown)) == set(page.images)


def test_markdown_tables_are_whole(benchmark):
    lines = (benchmark / "report.md").read_text().splitlines()
    widths = {}
    for number_, line in enumerate(lines):
        if line.startswith("|"):
            width = len(re.findall(r"(?<!\\)\|", line))
            assert widths.get(number_ - 1, width) == width, line
            widths[number_] = width
    assert len(widths) > 25


@pytest.mark.parametrize(
    ("effects", "options", "effect", "words"),
    [
        ({"pairs": -0.05}, {}, Effect.HARMS, "synthetic pairs harm"),
        ({"pairs": 0.008, "half": 0.0}, {"run_luck": 0.012}, Effect.NO_EVIDENCE, "no evidence that synthetic pairs"),
        ({"pairs": 0.0}, {}, Effect.EQUIVALENT, "synthetic pairs do not matter"),
        ({"pairs": 0.05}, {"training_sets": 6}, Effect.NO_EVIDENCE, "no evidence"),
        (
            {"pairs": 0.05},
            {"missing": {("pairs", 4, training_set, 0): "" for training_set in range(6, 12)}},
            Effect.NO_EVIDENCE,
            "it is not decided yet whether synthetic pairs help",
        ),
        ({"pairs": 0.05}, {"quick": True}, Effect.HELPS, "quick benchmark, synthetic pairs help"),
        ({"pairs": 0.03, "half": 0.0}, {}, Effect.HELPS, "“pairs, ratio 0.25” raises"),
        ({"da5": 0.05}, {}, Effect.HELPS, "the arms help"),
        ({"pairs": 0.0, "oracle": 0.3}, {}, Effect.EQUIVALENT, "do not matter"),
        (
            {"pairs": 0.05},
            {"missing": {("pairs", 4, training_set, 0): "" for training_set in range(12)}},
            Effect.NOTHING,
            "nothing can be said yet",
        ),
    ],
)
def test_verdicts(tmp_path, effects, options, effect, words):
    options = {"sizes": (4,), "training_sets": 12, "cases": 8, "run_luck": 0.002} | options
    concluded = conclude(analyse(read_benchmark(make_benchmark(tmp_path, effects, **options))))
    assert concluded.effect is effect
    assert words in concluded.sentence.lower()


def test_the_sentence_counts_the_sets_that_are_done(tmp_path):
    missing = {("pairs", 4, training_set, 0): "" for training_set in range(6, 12)}
    make_benchmark(tmp_path, {"pairs": 0.05}, sizes=(4,), training_sets=12, cases=8, missing=missing)
    assert "6 of 12 training sets)" in conclude(analyse(read_benchmark(tmp_path))).sentence


def test_an_arm_without_a_run_is_named_first_and_why(tmp_path):
    why = "bank pairs, 4 cases, training set 0 failed: The filters refused 64 of 64 samples"
    missing = {("pairs", 4, training_set, 0): why for training_set in range(2)}
    make_benchmark(
        tmp_path, {"pairs": 0.0, "da5": 0.0}, sizes=(4,), training_sets=2, cases=8, missing=missing, quick=True
    )
    write_report(tmp_path)
    lines = [line for line in (tmp_path / "report.md").read_text().splitlines() if "Pairs, ratio 0.25" in line]
    assert why in lines[0]
    page = (tmp_path / "report.md").read_text()
    assert page.index(why) < page.index("quick benchmark: ")
    assert page.index(why) < page.index("## ")


def test_distances_are_given_in_the_unit_of_the_design(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=1, cases=6)
    change(tmp_path, unit="pixels")
    write_report(tmp_path)
    assert "HD95 in pixels" in (tmp_path / "report.md").read_text()


def test_what_is_lowered_is_given_as_an_amount(tmp_path):
    make_benchmark(tmp_path, {"pairs": -0.05}, sizes=(4,), training_sets=12, cases=20, run_luck=0.002)
    sentence = conclude(analyse(read_benchmark(tmp_path))).sentence
    lowered = re.search(r"lowers mean Dice by ([\d.]+) .*?([\d.]+) to ([\d.]+)", sentence)
    amount, low, high = map(float, lowered.groups())
    assert 4 < low < amount < high < 6


def test_the_smallest_benchmark_has_a_report_that_says_what_it_lacks(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=1, cases=3, labels=("1+2",), quick=True)
    text = write_report(tmp_path).read_text()
    for words in ("No verdict is possible from 1 training set of 4 cases", "quick benchmark"):
        assert words in text
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower().split()


@pytest.mark.parametrize(
    ("looked", "told"),
    [
        (0, "the next look is at 6."),
        (6, "the next look is at 12."),
        (12, "the next look is at 18 (--training-sets 18)."),
    ],
)
def test_what_is_undecided_waits_for_the_next_look(tmp_path, looked, told):
    make_benchmark(tmp_path, {"pairs": 0.008}, sizes=(4,), training_sets=12, cases=8, run_luck=0.012)
    change(tmp_path, looked=looked)
    assert any(note.endswith(told) for note in notes(analyse(read_benchmark(tmp_path))))


def test_sets_that_overlap_are_reported(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=12, cases=8)
    pool = tuple(f"case_{number}" for number in range(100, 108))
    sets = [one.model_dump() for one in make_training_sets(pool, {case: case for case in pool}, (4,), 12, 0)]
    change(tmp_path, pool=pool, training_sets=sets)
    assert any("12 disjoint training sets of 4" in note for note in notes(analyse(read_benchmark(tmp_path))))


def test_a_class_that_a_case_does_not_have_counts_by_what_is_found_of_it(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=2, cases=8)
    scores = pd.read_csv(tmp_path / "scores.csv")
    without = (scores["case"] == "case_003") & (scores["label"] == 2)
    scores.loc[without, ["dice", "hd95"]] = np.nan
    scores.loc[without, "false_positive"] = np.where(scores.loc[without, "arm"] == "pairs", 30.0, 10.0)
    scores.to_csv(tmp_path / "scores.csv", index=False)
    analysis = analyse(read_benchmark(tmp_path))
    assert analysis.row("pairs", 4, "2", "false_positive")["difference"] == pytest.approx(20)
    assert analysis.row("pairs", 4, "1", "false_positive")["sets"] == 0
    others = scores[(scores["label"] == 2) & ~without & (scores["arm"] == "pairs")].groupby("training_set")["dice"]
    assert analysis.row("pairs", 4, "2")["mean"] == pytest.approx(others.mean().mean())
    write_report(tmp_path)
    assert "| false positives | all classes | Pairs, ratio 0.25 | 4 | 30.00 |" in (tmp_path / "report.md").read_text()


def test_cases_of_one_subject_are_averaged_first(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=2, cases=8)
    subjects = {f"case_{number:03d}": f"subject {number < 6}" for number in range(8)}
    change(tmp_path, subjects=subjects)
    analysis = analyse(read_benchmark(tmp_path))
    scores = pd.read_csv(tmp_path / "scores.csv").groupby(["arm", "training_set", "run", "case"])["dice"].mean()
    scores = scores.groupby(["arm", "case"]).mean()
    by_subject = (scores["pairs"] - scores["nnunet"]).groupby(subjects).mean()
    assert analysis.row("pairs", 4)["difference"] == pytest.approx(by_subject.mean())
    assert any("8 test cases come from 2 subjects" in note for note in notes(analysis))


def change(folder, **changes):
    """Change the design of a folder."""
    design = json.loads((folder / "design.json").read_text())
    (folder / "design.json").write_text(json.dumps(design | changes))


def spoil(folder, file, spoiling):
    table = pd.read_csv(folder / file, dtype=str, keep_default_na=False)
    spoiling(table).to_csv(folder / file, index=False)


def without_done(table):
    return table.assign(state=["failed" if arm == "nnunet" else "done" for arm in table["arm"]])


@pytest.mark.parametrize(
    ("file", "spoiling", "words"),
    [
        ("scores.csv", lambda table: table.drop(columns=["hd95", "label"]), "lacks the columns label, hd95"),
        ("runs.csv", lambda table: table.drop(columns="state"), "lacks the column state"),
        ("scores.csv", lambda table: table.assign(dice=["x", *table["dice"][1:]]), "line 2: dice is 'x'"),
        *(
            (
                "scores.csv",
                lambda table, c=column, v=value: table.assign(**{c: [v, *table[c][1:]]}),
                f"line 2: {column}",
            )
            for column, values in {
                "dice": ("nan", "inf", "NaN", "1.5", "-0.1"),
                "hd95": ("nan", "-1"),
                "size": ("nan", "", "4.5", "9" * 5000),
                "training_set": ("nan", "-1"),
                "run": ("nan", "3"),
                "false_positive": ("nan", "-1"),
                "case": ("nan", ""),
                "label": ("nan",),
            }.items()
            for value in values
        ),
        ("runs.csv", lambda table: table.assign(kid="nan"), "line 2: kid"),
        ("runs.csv", lambda table: table.assign(size="nan"), "line 2: size"),
        ("scores.csv", lambda table: table.assign(arm="other"), "arm is 'other', which is not in design.json"),
        (
            "scores.csv",
            lambda table: pd.concat([table, table[:1]]),
            "two rows for arm nnunet, size 4, training_set 0",
        ),
        ("runs.csv", without_done, "no run of nnU-Net alone (nnunet) is done"),
        ("scores.csv", lambda table: table[:0], "no run of nnU-Net alone"),
        ("scores.csv", lambda table: table.assign(dice=""), "no Dice at all"),
    ],
)
def test_tables_that_are_not_whole_are_told(tmp_path, file, spoiling, words):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=1, cases=3)
    spoil(tmp_path, file, spoiling)
    with pytest.raises(UserError, match=re.escape(words)):
        write_report(tmp_path)
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda design: [arm.pop("baseline") for arm in design["arms"]], "one baseline"),
        (lambda design: [arm.update(baseline=True) for arm in design["arms"]], "baseline"),
        (lambda design: [arm.update(name="nnunet") for arm in design["arms"][1:]], "different names"),
        (lambda design: design.pop("arms"), "key 'arms'"),
        (lambda design: design.update(sizes=4), "key 'sizes'"),
        (lambda design: design.update(labels=["1"]), "key 'labels'"),
        (lambda design: design.update(subjects=["1"]), "key 'subjects'"),
        (lambda design: design.update(format_version=1 + design["format_version"]), "format_version"),
    ],
)
def test_a_design_without_one_nnunet_alone_is_told(tmp_path, change, words):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=1, cases=3)
    design = json.loads((tmp_path / "design.json").read_text())
    change(design)
    (tmp_path / "design.json").write_text(json.dumps(design))
    with pytest.raises(UserError, match=re.escape(words)):
        read_benchmark(tmp_path)


def test_missing_and_broken_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"design.json does not exist"):
        read_benchmark(tmp_path)
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=1, cases=3)
    (tmp_path / "scores.csv").unlink()
    with pytest.raises(UserError, match=r"scores.csv does not exist"):
        read_benchmark(tmp_path)
    (tmp_path / "scores.csv").write_text("")
    with pytest.raises(UserError, match=r"scores.csv cannot be read"):
        read_benchmark(tmp_path)
    (tmp_path / "design.json").write_text("{")
    with pytest.raises(UserError, match=r"design.json is not valid JSON"):
        read_benchmark(tmp_path)


@pytest.mark.parametrize("file", ["runs.csv", "scores.csv"])
def test_rows_longer_than_the_first_line_are_refused(tmp_path, file):
    path = make_benchmark(tmp_path) / file
    first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([first, *(f"{row},1" for row in rows)]))
    with pytest.raises(UserError, match=f"{file}, line 2"):
        read_benchmark(tmp_path)
