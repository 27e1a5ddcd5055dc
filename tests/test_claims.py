"""Claims of the field: rules of their verdicts, what they are tried on, their pages and pictures, and short trials."""

import json
import xml.etree.ElementTree

import jax
import numpy as np
import pytest

from benchmarks import methods
from benchmarks.claims import (
    __main__ as command,
)
from benchmarks.claims import (
    augmentations,
    auxiliary,
    collapse,
    finding,
    label_curve,
    large_objects,
    negatives,
    picture,
    ranking,
    runs,
    words,
)
from benchmarks.claims.finding import Finding
from benchmarks.claims.runs import Budget
from ssl_jax import catalogue

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config


def linear(*values):
    """Figures of a setting whose k-NN accuracy says the opposite, so that a rule that reads the wrong one fails."""
    return {"linear": list(values), "k-NN": [-value for value in values]}


def word(found: Finding) -> str:
    """The verdict without what it rests on."""
    return found.verdict.partition(" (")[0]


def test_a_verdict_is_of_every_seed_or_of_the_mean():
    assert finding.beats([2, 2, 2], [1, 1, 1])
    assert not finding.beats([9, 9, 1], [1, 1, 1])
    assert finding.keeps_up([1, 2], [1.5, 2.0], within=0.3)
    assert not finding.keeps_up([1, 2], [1.5, 2.2], within=0.3)
    assert finding.verdict([True, True], "so") == "holds (so)"
    assert finding.verdict([True, False], "so") == "holds in part (so)"
    assert finding.verdict([False, False], "so") == "does not hold (so)"


def test_one_mean_in_all_tables():
    """Of these three, NumPy's sum is above 220.05 by an error of rounding."""
    values = [73.3, 73.02, 73.73]
    figures = {"seeds": {str(i): {"run": {"labels_10": value}} for i, value in enumerate(values)}}
    assert finding.spread(values, 1).split(" ± ")[0] == f"{catalogue.mean(figures, 'labels_10'):.1f}" == "73.3"


def test_label_curve_says_how_many_labels_pretraining_is_worth():
    counts = (1, 10, 100)
    tuned = {"fine_tuned": 40.0, "from_scratch": 30.0}, {"fine_tuned": 70.0, "from_scratch": 50.0}
    found = label_curve.conclude(counts, [[*tuned, {"fine_tuned": 80.0, "from_scratch": 90.0}]] * 2)
    assert word(found) == "holds"
    assert found.figures["10 labels per class"]["times fewer labels"] == pytest.approx([10**0.5] * 2)
    assert "times fewer labels" not in found.figures["100 labels per class"] or (
        found.figures["100 labels per class"]["times fewer labels"][0] < 1
    )
    assert "cross at 46 labels per class" in found.verdict  # two thirds of the way from 10 to 100
    assert found.curves["accuracy on the test set, %"]["fine-tuned"] == ([1.0, 10.0, 100.0], [[40, 70, 80]] * 2)
    worse = [tuned[0], {"fine_tuned": 49.0, "from_scratch": 50.0}, {"fine_tuned": 80.0, "from_scratch": 90.0}]
    assert word(label_curve.conclude(counts, [worse])) == "holds in part"


def test_words_against_pixels():
    found = {"bownet": linear(88, 89), "obow": linear(86, 90), "autoencoder": linear(87, 87), "untrained": linear(1, 1)}
    assert word(words.compare_targets(found)) == "holds in part"
    assert "OBoW not above" in words.compare_targets(found).verdict
    assert word(words.compare_targets({**found, "obow": linear(87.1, 87.1)})) == "holds"


def test_rounds():
    found = {
        "rotations (teacher)": linear(85, 85),
        "words, first round": linear(86, 86),
        "words, second round": linear(87, 87),
        "rotations, two rounds long": linear(99, 99),
        "OBoW": linear(86.8, 86.8),
    }
    assert word(words.compare_rounds(found)) == "holds"
    found["OBoW"] = linear(86.6, 86.6)
    assert words.compare_rounds(found).verdict.endswith("first: yes, OBoW no worse than BoWNet: no)")
    found["words, second round"] = linear(87, 86)
    assert "second round above the first: no" in words.compare_rounds(found).verdict


def test_negatives_are_compared_by_what_larger_batches_give():
    by_batch = {
        "simclr": {32: linear(80, 80), 512: linear(85, 85)},
        "byol": {32: linear(86, 86), 512: linear(87, 87)},
        "simsiam": {32: linear(86, 86), 512: linear(90, 92)},
    }
    found = negatives.conclude(by_batch, {128: linear(80, 81), 8192: linear(81, 82)})
    assert word(found) == "holds in part"  # SimSiam gains 6 in the second seed
    assert "SimCLR +5.0, BYOL +1.0, SimSiam +5.0; MoCo +1.0" in found.verdict
    assert found.curves["linear probe over batch size, %"]["SimSiam"] == ([32.0, 512.0], [[86, 90], [86, 92]])


def test_the_table_of_augmentations_is_symmetric():
    pairs = {("crop", "crop"): linear(60), ("crop", "colour"): linear(70), ("colour", "colour"): linear(65)}
    found = augmentations.conclude(pairs)
    assert word(found) == "holds"
    table = found.tables["linear probe, %"]
    assert table == {"crop": {"crop": 60, "colour": 70}, "colour": {"crop": 70, "colour": 65}}
    assert found.tables["k-NN, %"]["colour"]["crop"] == -70
    pairs["colour", "colour"] = linear(71)
    assert augmentations.conclude(pairs).verdict.endswith("the highest is colour alone with 71.0)")
    assert set(augmentations.NONE) >= {field for kind in augmentations.KINDS.values() for field in kind} - {"blur_taps"}


def test_suppression_is_what_the_small_item_loses():
    rows = {
        "SimCLR": [{"large": 85.0, "small": 40.0, "alone": 70.0}],
        "autoencoder": [{"large": 80.0, "small": 50.0, "alone": 65.0}],
        "untrained": [{"large": 75.0, "small": 45.0, "alone": 60.0}],
    }
    found = large_objects.conclude(rows)
    assert word(found) == "holds"
    assert found.figures["SimCLR"]["suppression"] == [30.0]
    rows["SimCLR"][0]["small"] = 51.0
    assert word(large_objects.conclude(rows)) == "holds in part"


def test_auxiliary_must_gain_at_every_number_of_labels():
    found = {count: {auxiliary.ALONE: [50, 51], auxiliary.BESIDE: [52, 54]} for count in (1, 10)}
    assert auxiliary.conclude(found).verdict == "holds (mean gain in points by labels per class: +2.5 at 1, +2.5 at 10)"
    found[10][auxiliary.BESIDE] = [52, 51]
    assert word(auxiliary.conclude(found)) == "holds in part"


def measured(value, **more):
    """A method's entry as it was before there were several seeds."""
    scores = {"knn": value - 1, "linear": value, "labels_10": value - 2}
    entry = {"data": "fashion_mnist", "encoder": "convnet", "steps": 400, "batch_size": 256, "run": scores}
    untrained = {"knn": 60.0, "linear": 60.0, "labels_10": 60.0}
    return {**entry, "untrained": untrained, "raw": untrained, "cpu_seconds": 100, "peak_mb": 1000, **more}


def test_seeds_stand_side_by_side():
    first = measured(80.0, seed=0)
    assert catalogue.by_seed(first)["0"]["run"]["linear"] == 80
    both = methods.merged(first, measured(83.0, cpu_seconds=103), 1)
    assert list(both["seeds"]) == ["0", "1"]
    assert both["run"] == {"knn": 80.5, "linear": 81.5, "labels_10": 79.5}
    assert (both["cpu_seconds"], both["steps"]) == (102, 400)
    assert catalogue.by_seed(both)["1"]["run"]["linear"] == 83
    assert methods.merged(both, measured(83.0, cpu_seconds=103), 1) == both
    assert list(methods.merged(both, measured(83.0, steps=10), 2)["seeds"]) == ["2"]  # another recipe


def test_ranking_leaves_the_yardstick_out():
    table = {"obow:fashion_mnist": measured(80.0, seed=0), "supervised:fashion_mnist": measured(90.0, seed=0)}
    table["moco:fashion_mnist"] = methods.merged(measured(78.0, seed=0), measured(79.0), 1)
    table["colorization:photos"] = measured(99.0, seed=0, data="photos:skimage")
    found = ranking.conclude(table)
    assert word(found) == "holds"
    assert list(found.figures) == ["supervised", "obow", "moco"]
    assert found.figures["moco"]["linear"] == [78.0, 79.0]
    assert found.tables["points above the untrained encoder"]["moco"]["linear"] == 18.5
    table["moco:fashion_mnist"] = measured(81.0, seed=0)
    assert "OBoW is number 2 of 2" in ranking.conclude(table).verdict
    assert ranking.ranking(Budget(seeds=(0,), root=None)).figures.keys() > {"obow", "simclr"}


def test_pictures_of_large_and_small_items():
    both, large, small = large_objects.pictures("test", 60)
    alone, *labels = large_objects.pictures("test", 60, alone=True)
    np.testing.assert_array_equal(labels, [large, small])
    assert both.images.shape == (60, 40, 40, 1)
    assert 0.02 < np.mean(large == small) < 0.3  # a tenth, by chance
    item = both.images.astype(int) - alone.images  # what the large item adds
    assert item.min() == 0
    assert not np.any((item > 0) & (alone.images > 0))  # they never overlap
    for where, side in ((item, 28), (alone.images, 12)):
        rows, columns = (np.ptp([np.flatnonzero(x.any(axis=axis))[[0, -1]] for x in where[..., 0]], axis=1)
                         for axis in (1, 0))  # fmt: skip
        assert max(rows.max(), columns.max()) < side
    corners = {(bool(x[:5, :5].any()), bool(x[-5:, -5:].any())) for x in item[..., 0]}
    assert len(corners) > 1
    large_objects.pictures.cache_clear()
    np.testing.assert_array_equal(large_objects.pictures("test", 60)[0].images, both.images)


def test_runs_are_shared_by_what_they_are():
    assert runs.directory("simclr:fashion_mnist", 1, {}) == "simclr-fashion_mnist-1"  # as benchmarks.methods has it
    name = runs.directory("simclr:test", 0, {"steps": 3, "knn_every": -1})
    assert name == runs.directory("simclr:test", 0, {"knn_every": -1, "steps": 3})
    assert name != runs.directory("simclr:test", 0, {"knn_every": -1, "steps": 4})


def test_what_was_computed_is_kept(tmp_path):
    assert runs.kept(tmp_path / "deep" / "x.json", lambda: (1, 2)) == [1, 2]
    assert runs.kept(tmp_path / "deep" / "x.json", lambda: pytest.fail("computed again")) == [1, 2]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.json"]


def test_page_picture_and_figures_are_kept(tmp_path, monkeypatch):
    """One of each kind of panel."""

    def claim(budget):
        """Water is wet.

        Put a hand in.
        """

    monkeypatch.setitem(command.CLAIMS, "water", claim)
    found = Finding(
        verdict="holds (both hands)",
        figures={"left": {"wet": [0.5, 0.7], "CPU s": [1200.0, 1300.0]}, "right": {"wet": [0.6, 0.6]}},
        curves={"wetness": {"left": ([1.0, 2.0], [[0.1, 0.2], [0.3, 0.4]])}},
        tables={"hands": {"left": {"warm": 1.0}, "right": {"cold": 2.0}}},
        bars=("wet",),
        log=True,
    )
    command.write("water", found, tmp_path)
    lines = (tmp_path / "water.md").read_text().splitlines()
    assert lines[:5] == ["## Water is wet.", "", "**Holds (both hands).**", "", "Put a hand in."]
    assert "| 2 seeds | wet | CPU s |" in lines
    assert "| left | 0.600 ± 0.141 | 1250 ± 71 |" in lines
    assert "| right | 0.600 ± 0.000 |  |" in lines
    assert lines[-1] == "![Water is wet.](claims/water.svg)"
    assert json.loads((tmp_path / "water.json").read_text())["figures"] == found.figures
    first = (tmp_path / "water.svg").read_bytes()
    assert xml.etree.ElementTree.fromstring(first).tag.endswith("svg")
    picture.draw(found, tmp_path / "water.svg")
    assert (tmp_path / "water.svg").read_bytes() == first


def test_every_claim_says_what_it_is_and_how_it_is_tried(capsys):
    command.main([])
    listed = capsys.readouterr().out.splitlines()
    for line, (name, claim) in zip(listed, command.CLAIMS.items(), strict=True):
        assert line == f"{name}: {finding.sentence(claim)}"
        assert len(claim.__doc__.strip().splitlines()) > 2
    with pytest.raises(SystemExit):
        command.main(["centering", "--test", "--write"])
    assert "not to be kept" in capsys.readouterr().err


def test_what_the_picture_needs_is_asked_for_before_the_runs(capsys, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(command.CLAIMS, "ranking", lambda budget: pytest.fail("it ran"))
    with pytest.raises(SystemExit):
        command.main(["ranking", "--write"])
    assert "matplotlib, which is not installed: pip install matplotlib" in capsys.readouterr().err


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Runs that were not made: `logs[...]` holds what a run logs at its end, by a function of config and fields."""
    rules = {}

    def pretrain(budget, config, seed, fields):
        workdir = tmp_path / runs.directory(config, seed, fields)
        workdir.mkdir()
        lines = [{"step": 5, "loss": 1.0}, {"step": 10, **rules["end"](config, fields)}]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return workdir

    monkeypatch.setattr(collapse, "pretrain", pretrain)
    return rules


def test_stop_gradient(logs):
    def end(config, fields):
        return {"embedding_std": 0.9 if fields["method_args.stop_gradient"] else 0.05, "probe_accuracy": 0.7}

    logs["end"] = end
    found = collapse.stop_gradient(Budget(seeds=(0, 1), root=None, test=True))
    assert word(found) == "holds"
    assert found.curves["deviation of the embedding"]["byol, with stop-gradient"] == ([10], [[0.9], [0.9]])
    assert "SimSiam 0.90 ± 0.00 with it and 0.05 ± 0.00 without, BYOL 0.90" in found.verdict


@pytest.mark.parametrize(("method", "where"), [("simsiam", "with"), ("byol", "without")])
def test_each_condition_of_the_stop_gradient_counts(method, where):
    """0.3 is too little with it, and too much without."""
    found = {
        f"{m}, {word} stop-gradient": {"deviation": [value, 0.3 if (m, word) == (method, where) else value]}
        for m in ("simsiam", "byol")
        for word, value in (("with", 0.9), ("without", 0.05))
    }
    assert collapse.needs_stop_gradient(found).startswith("holds in part (")
    for m, other in (("simsiam", "with"), ("simsiam", "without"), ("byol", "with"), ("byol", "without")):
        found[f"{m}, {other} stop-gradient"] = {"deviation": [0.3, 0.3]}
    assert collapse.needs_stop_gradient(found).startswith("does not hold (")


def test_centering(logs):
    def end(config, fields):
        share = 0.5 + 0.49 * ("method_args.teacher_temperature" in fields) - 0.49 * ("method_args.centering" in fields)
        return {"target_entropy": share * np.log(64), "target_kl": 0.01 if share != 0.5 else 0.6, "probe_accuracy": 0.7}

    logs["end"] = end
    assert word(collapse.centering(Budget(seeds=(0, 1), root=None, test=True))) == "holds"
    logs["end"] = lambda config, fields: {**end(config, fields), "target_entropy": 0.0}
    assert word(collapse.centering(Budget(seeds=(2,), root=None, test=True))) == "holds in part"
    logs["end"] = lambda config, fields: {**end(config, fields), "target_kl": 0.4}  # one-sided, but unlike each other
    found = collapse.centering(Budget(seeds=(3, 4), root=None, test=True))
    assert word(found) == "holds in part"
    assert "no centring 0.40, 0.40;" in found.verdict


@pytest.mark.parametrize("module", [negatives, augmentations, words])
def test_what_is_pretrained(module, monkeypatch):
    """In earnest: equal images in `negatives`, one thing after the other in `augmentations`, rounds in `words`."""
    made = []

    def pretrain(budget, config, seed, fields):
        made.append((config, fields))
        return seed

    monkeypatch.setattr(module, "pretrain", pretrain)
    monkeypatch.setattr(module, "figures", lambda workdirs, **kwargs: linear(*workdirs))
    budget = Budget(seeds=(0, 1), root=None)
    if module is negatives:
        negatives.negatives(budget)
        assert {fields["batch_size"] * fields["steps"] for _, fields in made} == {negatives.IMAGES}
        assert sorted({f["method_args.queue_size"] for c, f in made if c == "moco:fashion_mnist"}) == [128, 1024, 8192]
    elif module is augmentations:
        augmentations.augmentations(budget)
        assert len({json.dumps(fields, sort_keys=True) for _, fields in made}) == 15
        blurred = [fields for _, fields in made if fields["augment_args.blur_prob"] > 0]
        assert len(blurred) == 5 * 2
        assert sum(fields["augment_args.crop_scale"] != (1.0, 1.0) for fields in blurred) == 2
    else:
        monkeypatch.setattr(words, "seconds", lambda workdir: 100.0)
        words.high_level_targets(budget)
        words.rounds(budget)
        [bownet] = {json.dumps(fields) for config, fields in made if config.startswith("bownet")}  # one run for both
        assert json.loads(bownet)["checkpoint_every"] * 3 == json.loads(bownet)["steps"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where trials keep their runs, which they share."""
    return tmp_path_factory.mktemp("claims")


@pytest.mark.parametrize("name", [name for name in command.CLAIMS if name != "ranking"])  # which runs nothing
def test_a_trial_runs_once(name, root, monkeypatch):
    """Pretraining and evaluation as in earnest, on a few steps; a second time everything is there already."""
    budget = Budget(seeds=(0,), root=root, test=True)
    monkeypatch.setattr(runs, "TRAIN_IMAGES", 300)  # that probes learn on: choosing their settings is most of a trial
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # the example is a user's own loop
        found = command.CLAIMS[name](budget)
    values = [v for figures in found.figures.values() for figure in figures.values() for v in figure]
    assert np.isfinite(values).all()
    assert all(len(figure) == 1 for figures in found.figures.values() for figure in figures.values())
    monkeypatch.setattr(runs.cli, "main", lambda argv: pytest.fail("pretrained again"))
    for module in (label_curve, runs):
        monkeypatch.setattr(module, "load", lambda *_: pytest.fail("evaluated again"))
    monkeypatch.setattr(large_objects.ssl_jax, "fit", lambda *_, **__: pytest.fail("learned again"))
    monkeypatch.setattr(auxiliary, "example", lambda: pytest.fail("learned again"))
    assert command.CLAIMS[name](budget) == found
