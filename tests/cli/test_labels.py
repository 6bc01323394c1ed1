"""``--labels FILE.csv[:COLUMN]``: other labels than those of the cache, on the command line and in Python."""

import csv
import json
import os

import pytest

import featurecache
import heads
from featurecache import FeatureCache
from featurecache.backbones.fake import FakeBackbone
from featurecache.cli.console.labels import LabelsOption
from heads.search import SweepProgress

FEATURES = ("--tap", "features")
ALL_FOUND = "found labels of 40 of 40 rows in labels.csv\n"


def written(path, rows, header=("path", "label")):
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture
def table(tmp_path):
    """A table with three labels for rows of the cache and two for none."""
    rows = [("000", "blue"), ("001", "pink"), ("002", "pink")]
    paths = [(f"train/red/{name}.png", label) for name, label in rows]
    return written(tmp_path / "corrections.csv", [*paths, ("no/such.png", "red"), ("train/red/0000.png", "red")])


@pytest.fixture(scope="session")
def bare_cache(tmp_path_factory, images, fake_cache):
    """A cache of the images without labels."""
    folder = tmp_path_factory.mktemp("bare")
    paths = FeatureCache.open(fake_cache).paths
    table = written(folder / "images.csv", [(path, path.split("/")[0]) for path in paths], ("path", "split"))
    featurecache.extract(table, folder / "bare.h5", root=images, backbone=FakeBackbone())
    return folder / "bare.h5"


@pytest.fixture(scope="session")
def labels(tmp_path_factory, fake_cache):
    """The labels that the other cache has, as a table."""
    rows = [(path, path.split("/")[1]) for path in FeatureCache.open(fake_cache).paths]
    return written(tmp_path_factory.mktemp("labels") / "labels.csv", rows)


@pytest.fixture(scope="session")
def other_head(tmp_path_factory, invoke, fake_cache):
    directory = tmp_path_factory.mktemp("other") / "head"
    assert invoke("train", fake_cache, directory, "--head", "centroid", *FEATURES).code == 0
    return directory


COMMANDS = {
    "train": lambda cache, folder, *_: ("train", cache, folder / "head", "--head", "logreg", *FEATURES),
    "sweep": lambda cache, folder, *_: ("sweep", cache, folder / "sweep", "--head", "logreg", *FEATURES, "--jobs", "1"),
    "evaluate": lambda cache, folder, head, other: ("evaluate", head, cache),
    "compare": lambda cache, folder, head, other: ("compare", head, other, cache),
    "audit": lambda cache, folder, *_: ("audit", cache, *FEATURES, "--head", "logreg", "--near", "1"),
    "curve": lambda cache, folder, *_: ("curve", cache, *FEATURES, "--repeats", "2"),
}


@pytest.fixture(params=COMMANDS)
def name(request):
    return request.param


@pytest.fixture
def arguments(name, tmp_path, fake_head, other_head):
    """Return the arguments of a command that takes labels, on some cache."""

    def of(cache, folder=tmp_path):
        return COMMANDS[name](cache, folder, fake_head, other_head)

    return of


def results(value):
    """Return a result without what differs from run to run."""
    if isinstance(value, dict):
        return {key: results(one) for key, one in value.items() if key not in {"seconds", "warnings", "notes"}}
    return [results(one) for one in value] if isinstance(value, list) else value


def test_a_cache_with_labels_of_a_table_is_like_one_with_its_own(
    arguments, invoke, fake_cache, bare_cache, labels, tmp_path
):
    before = bare_cache.read_bytes()
    assert "no labelled rows" in invoke(*arguments(bare_cache)).err or arguments(bare_cache)[0] == "audit"
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    ours = invoke(*arguments(bare_cache, tmp_path / "one"), "--labels", labels, "--json")
    theirs = invoke(*arguments(fake_cache, tmp_path / "other"), "--json")

    assert ours.err == ALL_FOUND + theirs.err
    assert results(ours.json) == results(theirs.json)
    assert bare_cache.read_bytes() == before


def test_each_command_counts_rows_without_labels_and_labels_without_rows(arguments, invoke, fake_cache, table):
    done = invoke(*arguments(fake_cache), "--labels", table)
    assert done.code == 0
    assert [line for line in done.err.splitlines() if "corrections.csv" in line or "no row" in line] == [
        "found labels of 3 of 40 rows in corrections.csv; 37 rows without a line kept the label of the cache, if any; "
        "2 of 5 given labels are of no row of the cache: 'no/such.png', 'train/red/0000.png'"
    ]


@pytest.mark.parametrize("name", ["evaluate", "compare", "audit", "curve"], indirect=True)
def test_reports_name_the_table_beside_the_cache(arguments, invoke, bare_cache, labels, tmp_path):
    report = tmp_path / "report.md"
    done = invoke(*arguments(bare_cache), "--labels", f"{labels}:label", "--report", report)
    assert done.code == 0, done.err
    assert "bare.h5" in report.read_text("utf-8")
    assert "labels.csv" in report.read_text("utf-8")


def test_labels_train_and_unmatched_ones_are_counted(invoke, fake_cache, tmp_path, table):
    before = fake_cache.read_bytes()
    done = invoke("train", fake_cache, tmp_path / "head", "--head", "logreg", *FEATURES, "--labels", table)

    assert done.code == 0, done.err
    head = heads.TrainedHead.load(tmp_path / "head")
    assert head.classes == ("blue", "pink", "red")
    assert dict(zip(head.classes, head.training.class_counts, strict=True)) == {"blue": 15, "pink": 2, "red": 11}
    assert fake_cache.read_bytes() == before


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_the_warning_of_a_trained_head_has_a_code(name, invoke, fake_cache, tmp_path, table):
    invoke(*COMMANDS[name](fake_cache, tmp_path), "--labels", table)
    head = heads.TrainedHead.load(tmp_path / {"train": "head", "sweep": "sweep/best"}[name])
    assert "unmatched_labels" in [warning.code for warning in head.training.warnings]


def test_python_trains_the_same_head(invoke, fake_cache, tmp_path, table):
    invoke("train", fake_cache, tmp_path / "one", "--head", "softmax", *FEATURES, "--labels", table)
    labels = {"train/red/000.png": "blue", "train/red/001.png": "pink", "train/red/002.png": "pink"}
    labels |= {"no/such.png": "red", "train/red/0000.png": "red"}
    heads.train(FeatureCache.open(fake_cache), "softmax", tap="features", labels=labels).save(tmp_path / "other")

    for name in ("one", "other"):
        description = json.loads((tmp_path / name / "head.json").read_text())
        del description["training"]["seconds"], description["sha256"]
        (tmp_path / f"{name}.json").write_text(json.dumps(description))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    assert (tmp_path / "one" / "head.safetensors").read_bytes() == (
        tmp_path / "other" / "head.safetensors"
    ).read_bytes()


def test_a_head_of_other_labels_is_evaluated_against_them(invoke, fake_cache, tmp_path, fake_head):
    rows = [(path, f"class of {path.split('/')[1]}") for path in FeatureCache.open(fake_cache).paths]
    table = written(tmp_path / "labels.csv", rows)
    invoke("train", fake_cache, tmp_path / "head", "--head", "logreg", *FEATURES, "--labels", table)

    against_the_same = invoke("evaluate", tmp_path / "head", fake_cache, "--labels", table, "--json").json
    assert against_the_same["accuracy"] == invoke("evaluate", fake_head, fake_cache, "--json").json["accuracy"]
    trained = invoke("evaluate", tmp_path / "head", fake_cache, "--labels", table, "--split", "train")
    assert "warning: all 28 rows trained the head" in trained.err
    assert "the head knows 2 (class of blue, class of red)" in invoke("evaluate", tmp_path / "head", fake_cache).error


def test_a_row_with_an_empty_label_does_not_train(invoke, fake_cache, tmp_path):
    table = written(tmp_path / "none.csv", [("train/red/000.png", " ")])
    done = invoke(*COMMANDS["train"](fake_cache, tmp_path), "--labels", table, "--json")
    assert done.json["n_train"] == 27
    assert done.err.splitlines()[0] == (
        "found labels of 0 of 40 rows in none.csv; 39 rows without a line kept the label of the cache, if any; "
        "1 row with an empty label became unlabelled"
    )


def test_contents_say_which_images_they_are_of(invoke, fake_cache, bare_cache, labels, tmp_path):
    cache = FeatureCache.open(fake_cache)
    rows = [(sha256.upper(), path.split("/")[1]) for path, sha256 in contents_of(cache)]
    table = written(tmp_path / "labels.csv", [*rows, ("0" * 64, "red")], ("SHA256", "label"))
    ours = invoke("evaluate", *evaluated(tmp_path, invoke, fake_cache), bare_cache, "--labels", table, "--json")
    theirs = invoke("evaluate", tmp_path / "head", bare_cache, "--labels", labels, "--json")
    assert ours.json == theirs.json
    assert ours.err == f"{ALL_FOUND[:-1]}; 1 of 41 given labels are of no row of the cache: '{'0' * 64}'\n"


def contents_of(cache):
    rows = cache.features("features")
    return list(zip(rows.paths, rows.sha256, strict=True))


def evaluated(folder, invoke, cache):
    assert invoke(*COMMANDS["train"](cache, folder)).code == 0
    return (folder / "head",)


def test_another_column_by_its_name(invoke, bare_cache, fake_cache, tmp_path):
    rows = [
        (path, "x", path.split("/")[1], number % 2) for number, path in enumerate(FeatureCache.open(fake_cache).paths)
    ]
    table = written(tmp_path / "labels.csv", rows, ("path", "label", "Colour: main", "odd"))
    done = invoke(*COMMANDS["train"](bare_cache, tmp_path), "--labels", f"{table}:colour: main")
    assert (done.code, done.err) == (0, "found labels of 40 of 40 rows in labels.csv, column colour: main\n")
    assert heads.TrainedHead.load(tmp_path / "head").classes == ("blue", "red")
    (tmp_path / "numbers").mkdir()
    invoke(*COMMANDS["train"](bare_cache, tmp_path / "numbers"), "--labels", f"{table}:odd")
    assert heads.TrainedHead.load(tmp_path / "numbers" / "head").classes == ("0", "1")


@pytest.mark.parametrize(
    ("there", "text", "path", "column"),
    [
        ("f.csv", "f.csv", "f.csv", "label"),
        ("f.csv", "f.csv:breed", "f.csv", "breed"),
        ("f.csv", "f.csv:a:b", "f.csv", "a:b"),
        ("f:b", "f:b", "f:b", "label"),
        ("f:b", "f:b:c", "f:b", "c"),
        ("f:b f", "f:b", "f:b", "label"),
        ("C:\\f.csv", "C:\\f.csv:breed", "C:\\f.csv", "breed"),
        ("", "C:\\f.csv", "C:\\f.csv", "label"),
        ("", "f.csv:breed", "f.csv:breed", "label"),
        ("C/", "C:f.csv", "C:f.csv", "label"),
        ("", ":breed", "None", "breed"),
        ("", ":a:b", "None", "a:b"),
        (":breed", ":breed", ":breed", "label"),
    ],
)
def test_a_colon_before_a_column_is_told_from_one_in_a_name(there, text, path, column, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in there.split():
        if name.endswith("/"):
            os.mkdir(name)  # noqa: PTH102 - the name as it is given
        else:
            written(tmp_path / name, [])
    file = LabelsOption.parse(text)
    assert (str(file.path), file.column) == (path, column)


def test_a_column_with_different_texts_for_an_image_is_named(invoke, fake_cache, tmp_path):
    rows = [("train/red/000.png", "blue", "1", "x"), ("train/red/000.png", "blue", "2", "x")]
    table = written(tmp_path / "boxes.csv", rows, ("path", "label", "box", "by"))
    done = invoke(*COMMANDS["train"](fake_cache, tmp_path), "--labels", table)
    assert done.code == 0
    assert done.err.splitlines()[0].endswith("; left out, with different texts for one image: box")


@pytest.fixture(scope="session")
def coloured_cache(tmp_path_factory, images, fake_cache):
    """A cache of the images without labels, with a column of colours and one of ages."""
    folder = tmp_path_factory.mktemp("coloured")
    paths = FeatureCache.open(fake_cache).paths
    rows = [(path, path.split("/")[0], path.split("/")[1], number % 3 or "") for number, path in enumerate(paths)]
    table = written(folder / "images.csv", rows, ("path", "split", "colour", "age"))
    featurecache.extract(table, folder / "coloured.h5", root=images, backbone=FakeBackbone())
    return folder / "coloured.h5"


def test_labels_are_those_of_a_column_of_the_cache(arguments, invoke, fake_cache, coloured_cache, tmp_path):
    before = coloured_cache.read_bytes()
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    ours = invoke(*arguments(coloured_cache, tmp_path / "one"), "--labels", ":colour", "--json")
    theirs = invoke(*arguments(fake_cache, tmp_path / "other"), "--json")
    assert ours.err == "found labels of 40 of 40 rows in the column colour\n" + theirs.err
    assert results(ours.json) == results(theirs.json)
    assert coloured_cache.read_bytes() == before


def test_an_empty_text_is_no_label(invoke, coloured_cache, tmp_path):
    done = invoke(*COMMANDS["train"](coloured_cache, tmp_path), "--labels", ":age", "--json")
    assert done.err.splitlines()[0] == (
        "found labels of 26 of 40 rows in the column age; 14 rows with an empty label became unlabelled"
    )
    assert heads.TrainedHead.load(tmp_path / "head").classes == ("1", "2")


def test_a_report_names_the_column(invoke, coloured_cache, fake_head, tmp_path):
    report = tmp_path / "report.md"
    assert invoke("evaluate", fake_head, coloured_cache, "--labels", ":colour", "--report", report).code == 0
    assert "the column colour" in report.read_text("utf-8")


def test_info_counts_the_texts_of_columns(invoke, coloured_cache, fake_cache):
    found = invoke("info", coloured_cache, "--json").json["columns"]
    assert found == {"age": {"rows": 26, "texts": 2}, "colour": {"rows": 40, "texts": 2}}
    shown = invoke("info", coloured_cache).out
    assert [line.split() for line in shown.splitlines() if line.startswith(("colour", "age"))] == [
        ["age", "26", "2"],
        ["colour", "40", "2"],
    ]
    assert invoke("info", fake_cache, "--json").json["columns"] == {}


def test_a_column_that_the_cache_lacks_is_one_line(arguments, invoke, fake_cache):
    done = invoke(*arguments(fake_cache), "--labels", ":breed")
    words = "unknown column 'breed' (known: none; extract a table that has it, which takes no forward pass)"
    assert (done.code, done.error) == (1, words)


def test_a_byte_order_mark_does_not_matter(invoke, bare_cache, labels, tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + labels.read_bytes())
    done = invoke(*COMMANDS["train"](bare_cache, tmp_path), "--labels", tmp_path / "labels.csv")
    assert (done.code, done.err) == (0, ALL_FOUND)


@pytest.mark.parametrize(
    ("content", "column", "words"),
    [
        (None, "", "no such file"),
        (b"path\n", "", "0 columns 'label', expected one; found 'path'; if the labels have another column, name it"),
        (b"path,kind,tone\n", ":breed", "0 columns 'breed', expected one; found 'path', 'kind', 'tone'"),
        (b"a;b\n", "", "0 columns 'path', expected one; found 'a', 'b'; name the column of paths 'path'"),
        (b"path,label\n", "", "no label for any row of {cache}: it has a header and no rows, and the first row of the"),
        (b"path,label\nx/0.png,red\n", "", "its first image is 'x/0.png', and the first row of the cache is 'train/bl"),
        (b"path,label\n\xff.png,red\n", "", "is not UTF-8 in line 2; save it as UTF-8"),
        (
            "path,label\nx.png,red\n".encode("utf-16"),
            "",
            "its first image is 'x.png', and the first row of the cache is",
        ),
        (b"sha256,label\naa,red\nAA,blue\n", "", "line 3: sha256 'aa' has the labels 'red' and 'blue'; keep one"),
        (b"path,label\n./a.png,red\na.png,blue\n", "", "line 3: path 'a.png' has the labels 'red' and 'blue'; keep"),
    ],
)
def test_a_bad_table_is_one_line(content, column, words, invoke, fake_cache, tmp_path):
    if content is not None:
        (tmp_path / "bad.csv").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    done = invoke(*COMMANDS["train"](fake_cache, tmp_path), "--labels", f"{tmp_path / 'bad.csv'}{column}")
    assert done.code == 1
    assert words.format(cache=fake_cache) in done.error
    assert sorted(tmp_path.iterdir()) == before


def test_each_command_refuses_a_table_of_other_images(arguments, invoke, fake_cache, tmp_path):
    done = invoke(*arguments(fake_cache), "--labels", written(tmp_path / "bad.csv", [("cats/0.png", "cat")]))
    assert done.code == 1
    assert f"no label for any row of {fake_cache}: its first image is 'cats/0.png'" in done.error
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_a_class_of_one_row_is_told_in_one_line(arguments, name, invoke, fake_cache, tmp_path):
    table = written(tmp_path / "labels.csv", [("train/red/000.png", "pink")])
    done = invoke(*arguments(fake_cache), "--labels", table)
    found, *notices = done.err.splitlines()
    assert done.code == 0, done.err
    assert found.startswith("found labels of 1 of 40 rows")
    expected = {
        "train": "no valid row is of the class pink",
        "audit": "1 labelled rows of the class pink were not checked",
        "curve": "no valid row is of the class pink",
    }
    assert expected.get(name, "") in "".join(notices)


def test_folds_need_more_than_one_row_of_a_class(invoke, fake_cache, tmp_path):
    table = written(tmp_path / "labels.csv", [("train/red/000.png", "pink")])
    done = invoke(*COMMANDS["sweep"](fake_cache, tmp_path), "--folds", "2", "--labels", table)
    assert done.code == 1
    assert "2 folds need as many different training images of each class, and 'pink' has 1" in done.error


def test_a_class_alone_cannot_be_trained(invoke, fake_cache, tmp_path):
    table = written(tmp_path / "labels.csv", [(path, "pink") for path in FeatureCache.open(fake_cache).paths])
    for name in ("train", "sweep", "curve"):
        done = invoke(*COMMANDS[name](fake_cache, tmp_path), "--labels", table)
        assert done.code == 1
        assert "all 28 training rows are of the class 'pink'; a head needs rows of at least two" in done.error


def interrupted(cache, directory):
    """Begin the sweep of `COMMANDS`, and leave it when its first results are there."""

    def leave(state: SweepProgress):
        if state.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heads.sweep(cache, directory, heads=["logreg"], taps=["features"], jobs=1, progress=leave)
    assert directory.with_name("sweep.work").is_dir()


def test_a_sweep_goes_on_with_the_same_labels_only(invoke, bare_cache, labels, tmp_path):
    relabelled = FeatureCache.open(bare_cache).with_labels(featurecache.read_labels(labels))
    interrupted(relabelled, tmp_path / "sweep")
    sweep = (*COMMANDS["sweep"](bare_cache, tmp_path), "--labels")

    others = written(
        tmp_path / "others.csv", [(path, label[:1]) for path, label in featurecache.read_labels(labels).items()]
    )
    one = dict(featurecache.read_labels(labels)) | {"valid/red/000.png": "blue"}
    for table in (others, written(tmp_path / "one.csv", one.items())):
        refused = invoke(*sweep, table)
        assert refused.code == 1
        assert "holds an unfinished sweep of another kind: the images, labels or splits" in refused.error
    done = invoke(*sweep, labels)
    assert done.code == 0
    assert "known from before and kept: " in done.err


@pytest.mark.slow
def test_workers_of_a_sweep_take_the_labels_of_the_table(command, bare_cache, labels, fake_cache, tmp_path):
    grid = ("--head", "softmax", "--head", "logreg", "-p", "epochs=3", "--tap", "features", "--jobs", "2", "--json")
    ours = command("sweep", bare_cache, tmp_path / "one", *grid, "--labels", labels)
    theirs = command("sweep", fake_cache, tmp_path / "other", *grid)
    assert results(ours.json) == results(theirs.json)


def grouped_table(path, cache, group):
    """Write a table of the labels of the images and a group of each."""
    rows = [(each, each.split("/")[1], group(number)) for number, each in enumerate(cache.paths)]
    return written(path, rows, ("path", "label", "patient"))


def test_each_command_keeps_groups_together(arguments, invoke, name, fake_cache, tmp_path):
    table = grouped_table(tmp_path / "groups.csv", FeatureCache.open(fake_cache), lambda number: f"p{number // 2}")
    if name == "curve":
        table = grouped_table(tmp_path / "groups.csv", FeatureCache.open(fake_cache), lambda number: f"p{number}")
    done = invoke(*arguments(fake_cache), "--labels", table, "--group", "patient")
    assert done.code == 0, done.err
    if name == "train":
        assert "rows were kept together by the column 'patient': " in done.out
        groups = heads.TrainedHead.load(tmp_path / "head").training.groups
        assert groups.column == "patient"
    if name == "sweep":
        assert heads.TrainedHead.load(tmp_path / "sweep" / "best").training.groups.column == "patient"
    if name == "evaluate":
        assert "intervals resample 6 groups" in done.out
        assert invoke(*arguments(fake_cache), "--labels", table, "--group", "patient", "--json").json["groups"] == 6
    if name == "compare":
        assert "sign-flip test of 6 groups, which intervals resample" in done.out


@pytest.mark.parametrize(
    ("group", "column", "message"),
    [
        (lambda number: f"p{number}", "patint", "unknown column 'patint'; did you mean 'patient'? (known: patient)"),
        (lambda number: f"p{number}" if number > 2 else "", "patient", "'patient' is empty for 3 of 40 labelled rows"),
        (lambda number: "p", "patient", "all 40 labelled rows are in the group 'p' of the column 'patient'"),
    ],
)
def test_each_command_refuses_a_column_that_cannot_group(
    arguments, invoke, fake_cache, tmp_path, group, column, message
):
    table = grouped_table(tmp_path / "groups.csv", FeatureCache.open(fake_cache), group)
    done = invoke(*arguments(fake_cache), "--labels", table, "--group", column)
    assert done.code != 0
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert [each.name for each in tmp_path.iterdir()] == ["groups.csv"]


def weighted_table(path, cache, weight):
    """Write a table of the labels of the images and a weight of each."""
    rows = [(each, each.split("/")[1], weight(number)) for number, each in enumerate(cache.paths)]
    return written(path, rows, ("path", "label", "trust"))


@pytest.mark.parametrize("name", ["train", "sweep", "audit", "curve"], indirect=True)
def test_rows_weigh(arguments, invoke, name, fake_cache, tmp_path):
    table = weighted_table(tmp_path / "weights.csv", FeatureCache.open(fake_cache), lambda number: 1 + number % 3)
    done = invoke(*arguments(fake_cache), "--labels", table, "--weight", "trust")
    assert done.code == 0, done.err
    if name in {"train", "sweep"}:
        head = heads.TrainedHead.load(tmp_path / {"train": "head", "sweep": "sweep/best"}[name])
        assert head.training.weight == "trust"
    assert name != "train" or "training rows were weighed by the column 'trust'" in done.out
    wrong = weighted_table(tmp_path / "weights.csv", FeatureCache.open(fake_cache), lambda number: number - 1)
    (tmp_path / "other").mkdir()
    done = invoke(*arguments(fake_cache, tmp_path / "other"), "--labels", wrong, "--weight", "trust")
    assert done.code != 0
    assert "has no finite number of at least 0 for 1 of 40 labelled rows, first '-1'" in " ".join(done.err.split())
    assert not [*(tmp_path / "other").iterdir()]


def test_a_head_without_weights_is_refused(invoke, fake_cache, tmp_path):
    table = weighted_table(tmp_path / "weights.csv", FeatureCache.open(fake_cache), lambda _: 1)
    done = invoke(
        "train", fake_cache, tmp_path / "head", "--head", "knn", *FEATURES, "--labels", table, "--weight", "trust"
    )
    assert done.code != 0
    assert "the head 'knn' takes no weights of rows; these do: softmax" in " ".join(done.err.split())
