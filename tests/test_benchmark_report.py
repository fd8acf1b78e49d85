"""A report promises to be made of the tables alone, to leave out nothing silently, and to say what they lack."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from html_page import read_page
from made_benchmark import make_benchmark
from scipy import stats

from nnunet_synth.benchmark.analysis import CLASSES, POOLED, analyse
from nnunet_synth.benchmark.report.page import write_report
from nnunet_synth.benchmark.report.text import notes
from nnunet_synth.benchmark.report.verdict import Effect, conclude, effect_of_row
from nnunet_synth.benchmark.results import read_benchmark
from nnunet_synth.pages.formatting import interval, points
from stylegan2_cond.errors import UserError

FAILED = ("pairs", 8, 1)
ARMS = {"nnunet-again": 0.0, "da5": 0.004, "pairs": 0.05, "half": -0.05}


def verdict(folder):
    return conclude(analyse(read_benchmark(folder)))


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory):
    """A strong effect, a harmful arm, a failed run and one that never began; small, so that it is quick."""
    folder = make_benchmark(
        tmp_path_factory.mktemp("benchmark"),
        ARMS,
        sizes=(4, 8),
        training_sets=4,
        cases=20,
        missing={FAILED: "CUDA | out of memory", ("da5", 4, 0): ""},
    )
    write_report(folder)
    return folder


def test_the_report_is_made_of_the_tables_alone_and_twice_the_same(benchmark, tmp_path):
    for name in ("design.json", "runs.csv", "scores.csv"):
        (tmp_path / name).write_bytes((benchmark / name).read_bytes())
    assert write_report(tmp_path) == tmp_path / "report.html"
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 3 + 3 + 1
    for path in made:
        assert (tmp_path / path).read_bytes() == (benchmark / path).read_bytes(), path


@pytest.mark.parametrize(
    ("p_noise", "measured", "effect"),
    [(0.11, True, Effect.NO_EVIDENCE), (0.01, True, Effect.HELPS), (0.11, False, Effect.HELPS)],
)
def test_what_nnunet_alone_has_to_itself_is_no_effect(benchmark, p_noise, measured, effect):
    row = analyse(read_benchmark(benchmark)).row("pairs").copy()
    assert effect_of_row(row) is Effect.HELPS
    row["p_noise"], row["noise_measured"] = p_noise, measured
    assert effect_of_row(row) is effect


def test_the_sentence_says_where_by_how_much_at_what_cost(benchmark):
    analysis = analyse(read_benchmark(benchmark))
    row, sentence = analysis.row("pairs"), conclude(analysis).sentence
    assert row["difference"] == pytest.approx((0.05 + 0.025) / 2, abs=0.01)  # as it was made
    assert f"the arm “Pairs, ratio 0.25” raises mean Dice by {points(row['difference'], sign=False)} points" in sentence
    assert interval(row["low"], row["high"], scale=100) in sentence
    assert sentence.startswith("Synthetic pairs help on Dataset004_Hippocampus (2d)")
    assert "4 and 8 training cases" in sentence
    assert "2.5 times" in sentence  # 400 s of nnU-Net, and 600 s of the generator
    assert "“Pairs, ratio 0.5” harms" in sentence
    for file in ("report.md", "report.html"):
        assert sentence in (benchmark / file).read_text()


def test_statistics_hold_every_number_and_stem_from_paired_runs_only(benchmark):
    table = pd.read_csv(benchmark / "statistics.csv", dtype={"size": str, "label": str})
    assert len(table) == 2 * 5 * 3 * 3  # metrics, arms, sizes and pooled, labels and mean
    table = table.set_index(["metric", "arm", "size", "label"])
    scores = pd.read_csv(benchmark / "scores.csv")
    means = scores[scores["size"] == 8].groupby(["arm", "training_set", "case"])["dice"].mean().unstack("arm")
    paired = (means["pairs"] - means["nnunet"]).dropna()
    row = table.loc[("dice", "pairs", "8", CLASSES)]
    assert row["paired_runs"] == row["runs"] == 3
    assert row["difference"] == pytest.approx(paired.groupby("case").mean().mean(), abs=1e-6)
    assert table.loc[("dice", "nnunet", "8", CLASSES), "runs"] == 4
    assert table.loc[("hd95", "pairs", "8", "1"), "difference"] < 0  # mm; nearer
    assert table.loc[("dice", "nnunet-again", POOLED, CLASSES)].isna()["p_cases_holm"]  # no member of the family


def test_runs_that_are_missing_are_named(benchmark):
    for file in ("report.md", "report.html"):
        text = (benchmark / file).read_text()
        assert "2 of 40" in text
        assert "out of memory" in text
        assert "38 of 40" in text
    assert "| Pairs, ratio 0.25 | 8 | 1 | failed | CUDA \\| out of memory |" in (benchmark / "report.md").read_text()
    assert "| Stronger augmentation (DA5) | 4 | 0 | missing |  |" in (benchmark / "report.md").read_text()


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
    assert len(widths) > 30


@pytest.mark.parametrize(
    ("effects", "options", "effect", "words"),
    [
        ({"pairs": -0.05}, {}, Effect.HARMS, "synthetic pairs harm"),
        ({"pairs": 0.0, "half": 0.0}, {}, Effect.NO_EVIDENCE, "no evidence that synthetic pairs help"),
        ({"pairs": 0.05}, {"training_sets": 1}, Effect.TOO_FEW, "help"),
        ({"pairs": 0.05}, {"quick": True}, Effect.HELPS, "quick benchmark, synthetic pairs help"),
        ({"da5": 0.05}, {}, Effect.HELPS, "the arms help"),
        (
            {"pairs": 0.05},
            {"missing": {("pairs", size, training_set): "" for size in (4, 8) for training_set in range(4)}},
            Effect.NOTHING,
            "nothing can be said yet",
        ),
    ],
)
def test_verdicts(tmp_path, effects, options, effect, words):
    options = {"sizes": (4, 8), "training_sets": 4, "cases": 20, "run_luck": 0.002} | options
    analysis = analyse(read_benchmark(make_benchmark(tmp_path, effects, **options)))
    concluded = conclude(analysis)
    assert concluded.effect is effect
    assert words in concluded.sentence.lower()


def test_an_arm_that_helps_is_not_hidden_by_one_with_a_lucky_run(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.03, "half": 0.0}, sizes=(4,), training_sets=4, cases=20, run_luck=0.002)
    scores = pd.read_csv(tmp_path / "scores.csv")
    scores.loc[(scores["arm"] == "half") & (scores["training_set"] == 2), "dice"] = 1.0
    scores.to_csv(tmp_path / "scores.csv", index=False)
    analysis = analyse(read_benchmark(tmp_path))
    assert analysis.row("half")["difference"] > analysis.row("pairs")["difference"]
    concluded = conclude(analysis)
    assert concluded.effect is Effect.HELPS
    assert "the arm “Pairs, ratio 0.25” raises" in concluded.sentence


def test_an_arm_without_a_run_is_named_first_and_why(tmp_path):
    why = "bank pairs, 4 cases, training set 0 failed: The filters refused 64 of 64 samples"
    missing = {("pairs", 4, training_set): why for training_set in range(2)}
    make_benchmark(
        tmp_path, {"pairs": 0.0, "da5": 0.0}, sizes=(4,), training_sets=2, cases=8, missing=missing, quick=True
    )
    write_report(tmp_path)
    lines = [line for line in (tmp_path / "report.md").read_text().splitlines() if "Pairs, ratio 0.25" in line]
    assert why in lines[0]
    page = (tmp_path / "report.md").read_text()
    assert page.index(why) < page.index("quick benchmark: ")
    assert page.index(why) < page.index("## ")


def test_distances_are_told_in_the_unit_of_the_design(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=1, cases=6)
    design = json.loads((tmp_path / "design.json").read_text())
    (tmp_path / "design.json").write_text(json.dumps(design | {"unit": "pixels"}))
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "HD95 in pixels" in text
    assert " mm" not in text


def test_what_is_lowered_is_told_as_an_amount(tmp_path):
    make_benchmark(tmp_path, {"pairs": -0.05}, sizes=(4,), training_sets=4, cases=20, run_luck=0.002)
    lowered = re.search(r"lowers mean Dice by ([\d.]+) .*?([\d.]+) to ([\d.]+)", verdict(tmp_path).sentence)
    amount, low, high = map(float, lowered.groups())
    assert 4 < low < amount < high < 6


def test_the_yardstick_and_nnunet_alone_are_never_the_verdict(tmp_path):
    make_benchmark(tmp_path, {"nnunet-again": 0.3, "pairs": 0.0}, sizes=(4,), training_sets=4, cases=20)
    assert verdict(tmp_path).effect is Effect.NO_EVIDENCE


def test_the_smallest_benchmark_has_a_report_that_says_what_it_lacks(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=1, cases=3, labels=("1+2",), quick=True)
    text = write_report(tmp_path).read_text()
    for words in ("no test over runs", "only 3 test cases", "quick benchmark"):
        assert words in text
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower().split()


def test_undefined_scores_are_counted(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=2, cases=8)
    scores = pd.read_csv(tmp_path / "scores.csv")
    lost = (scores["arm"] == "pairs") & (scores["case"] == "case_003") & (scores["label"] == 2)
    scores.loc[lost, "hd95"] = np.nan
    scores.to_csv(tmp_path / "scores.csv", index=False)
    analysis = analyse(read_benchmark(tmp_path))
    assert analysis.row("pairs", label="2", metric="hd95")["undefined"] == 2  # once a training set
    assert analysis.row("pairs", label="2", metric="hd95")["paired_cases"] == 7
    assert analysis.row("pairs", label="1", metric="hd95")["undefined"] == 0
    assert any("HD95 is undefined" in note and note.endswith("ratio 0.25” 2.") for note in notes(analysis))


def test_cases_of_one_subject_are_one_witness(tmp_path):
    make_benchmark(tmp_path, {"pairs": 0.0}, sizes=(4,), training_sets=2, cases=24)
    design = json.loads((tmp_path / "design.json").read_text())
    apart = analyse(read_benchmark(tmp_path)).row("pairs")
    design["subjects"] = {case: f"subject {int(case[-3:]) // 4}" for case in design["test_cases"]}
    (tmp_path / "design.json").write_text(json.dumps(design))
    analysis = analyse(read_benchmark(tmp_path))
    row = analysis.row("pairs")
    scores = pd.read_csv(tmp_path / "scores.csv").groupby(["arm", "case"])["dice"].mean()
    by_subject = (scores["pairs"] - scores["nnunet"]).groupby(lambda case: int(case[-3:]) // 4).mean()
    assert row["p_cases"] == pytest.approx(stats.wilcoxon(by_subject).pvalue)
    assert (row["paired_cases"], apart["paired_cases"]) == (6, 24)
    assert row["difference"] == pytest.approx(apart["difference"])


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
                "case": ("nan", ""),
                "label": ("nan",),
            }.items()
            for value in values
        ),
        ("runs.csv", lambda table: table.assign(kid="nan"), "line 2: kid"),
        ("runs.csv", lambda table: table.assign(size="nan"), "line 2: size"),
        ("scores.csv", lambda table: table.assign(arm="other"), "arm is 'other', which is not in design.json"),
        ("scores.csv", lambda table: pd.concat([table, table[:1]]), "two rows for arm nnunet, size 4, training_set 0"),
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
