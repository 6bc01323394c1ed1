"""How results look to a person: tables, numbers, and names that cannot reach the terminal as they are."""

import re

import numpy as np
import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.cli.commands.evaluate import print_evaluation
from featurecache.cli.console.output import print_failures, print_json, print_table, say
from featurecache.text import number
from heads import PredictionsTable, evaluate_table


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.5, 4, "0.5000"), (1, 4, "1.0000"), (2.25, 1, "2.2"), (None, 4, "-"), (-0.00004, 4, "-0.0000")],
)
def test_number(value, digits, text):
    assert number(value, digits) == text


def test_a_table_aligns_names_to_the_left_and_numbers_to_the_right(capsys):
    print_table(("name", "n", "place"), [("a", 5, "x"), ("longer name", 12345, "y/z")], left=(0, 2))
    assert capsys.readouterr().out == (
        "name             n  place\n"
        "a                5  x\n"
        "longer name  12345  y/z\n"
    )  # fmt: skip


def test_a_table_without_rows_is_its_header(capsys):
    print_table(("class", "rows"), [])
    assert capsys.readouterr().out == "class  rows\n"


def test_a_table_counts_the_cells_of_the_terminal(capsys):
    print_table(("class", "n"), [("猫", 1), ("dogs", 22), ("a\nb", 3)])
    assert capsys.readouterr().out.splitlines() == ["class   n", "猫      1", "dogs   22", "a\\nb    3"]


def test_messages_and_failures_go_to_standard_error_printable(capsys):
    say("left out: \x1b[2J")
    print_failures({f"{n}\n.jpg": "\x07broken" for n in range(1021)}, "somewhere")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "left out: \\x1b[2J"
    assert lines[1] == "failed: 0\\n.jpg: \\x07broken"
    assert len(lines) == 22
    assert lines[-1] == "… and 1,001 more: somewhere"


def test_json_is_plain_ascii_and_has_no_numbers_that_are_none(capsys):
    print_json({"path": "\x1b猫\udcff"})
    assert capsys.readouterr().out == '{\n  "path": "\\u001b\\u732b\\udcff"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        print_json({"loss": float("nan")})


def test_of_many_classes_the_most_frequent_confusions_are_shown(capsys):
    true = np.array([*range(30), *[3] * 9, *[7] * 1200, 8])
    predicted = np.array([*range(30), *[4] * 9, *[2] * 1200, 1])
    paths = np.array([f"{row}.jpg" for row in range(len(true))], dtype=object)
    splits = np.full(len(true), "valid", dtype=object)
    classes = tuple(f"c{index}" for index in range(30))
    print_evaluation(evaluate_table(PredictionsTable(paths, splits, true, np.eye(30)[predicted], classes)))
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "most frequent confusions (--json has all 30 classes)",
        "actual  predicted   rows",
        "c7      c2         1,200",
        "c3      c4             9",
        "c8      c1             1",
    ]


def test_hostile_names_do_not_reach_the_terminal(tmp_path, invoke, write_images, hostile):
    photos = tmp_path / "photos"
    for split, seed in (("train", 0), ("valid", 1)):
        write_images(photos / split / hostile, 6, (220, 40, 30), seed)
        write_images(photos / split / "blue", 6, (30, 40, 220), seed)
    (photos / "train" / hostile / f"{hostile}.png").write_bytes(b"bad")
    cache, head = tmp_path / f"{hostile}.h5", tmp_path / hostile
    featurecache.extract(photos, cache, backbone=FakeBackbone())
    commands = [
        ("info", cache),
        ("train", cache, head, "--head", "logreg", "--tap", "features"),
        ("evaluate", head, cache, "--predictions", tmp_path / f"{hostile}.csv"),
        ("evaluate", head, cache, "--split", hostile),
        ("train", cache, head, "--head", hostile),
        ("train", cache, tmp_path / "x", "--tap", hostile),
        ("predict", photos / hostile, photos),
        ("extract", photos / hostile, tmp_path / "x.h5"),
        ("info", cache, hostile),
        (hostile,),
    ]
    for arguments in commands:
        done = invoke(*arguments)
        for line in (done.out + done.err).split("\n"):
            assert line.isprintable(), (arguments, line)
        assert "\\x1b[31mred\\x07\\" in done.out + done.err, arguments
    failed = invoke("info", cache).err
    assert re.fullmatch(r"failed: train/\S+/\S+\.png: a text that begins with.*\n", failed)


def test_info_shows_everything_in_lines(invoke, fake_cache):
    out = invoke("info", fake_cache).out
    assert out.startswith(f"{fake_cache}: 40 rows, 0 failures\n\n")
    for line in (
        r"features        16",
        r"train    28",
        r"blue     20",
        r"  backbone        fake",
        r"  input_size      32x32",
        r"    features      16",
        r"  fingerprint     [0-9a-f]{64}",
        r"  weights_source +random:0",
        r"    forwarded +40",
        r"    device +cpu",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line


def test_heads_lists_parameters_as_they_are_typed(invoke):
    out = invoke("heads").out
    assert re.search(r"^softmax: One dense layer", out, re.MULTILINE)
    assert re.search(r"^ridge: .*\n(  .*\n)*  --target +class, labels, number$", out, re.MULTILINE)
    assert re.search(r"^ +auto by default for --target number$", out, re.MULTILINE)
    assert re.search(r"^  -p lr=0\.001 +Learning rate.*\n +a number above 0$", out, re.MULTILINE)
    assert re.search(r"^  -p standardize=true +\S", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_backbones_lists_taps(invoke):
    out = invoke("backbones").out
    assert re.search(r"^vgg16 +224x224 +138,357,544  fc2 4,096, predictions 1,000$", out, re.MULTILINE)
    assert re.search(r"^efficientnet_b7 +600x600 +66,658,687  avg_pool 2,560, predictions 1,000$", out, re.MULTILINE)
    one = invoke("backbones", "vgg16").out
    assert re.search(r"^vgg16: input 224x224, preprocessing caffe$", one, re.MULTILINE)
    assert re.search(r"^  default taps +fc2 \(4,096\), predictions \(1,000\)$", one, re.MULTILINE)
    assert re.search(r"^  other taps +block1_conv1 \(3,211,264\), ", one, re.MULTILINE)
    assert re.search(r"^  stages +predictions, fc, block5: ", one, re.MULTILINE)
    assert max(map(len, (out + one).splitlines())) <= 80


def test_backbones_of_an_unknown_name_proposes_the_nearest(invoke):
    done = invoke("backbones", "efficientnet_b9")
    assert done.code == 1
    assert done.err == (
        "error: unknown backbone 'efficientnet_b9'; did you mean 'efficientnet_b7'? (known: efficientnet_b7, "
        "efficientnet_b6, efficientnet_b5, efficientnet_b4, efficientnet_b3 and 35 more, or a .keras file, or a folder "
        "with a preset of KerasHub)\n"
    )


def test_summary_of_vgg16(invoke):
    done = invoke("summary")
    assert (done.code, done.err) == (0, "")
    header, *layers, blank, last, logits = done.out.splitlines()
    assert header.split() == ["layer", "kind", "tap", "output", "parameters", "activation"]
    assert len(layers) == 23
    assert blank == ""
    assert last.startswith("23 layers, 138,357,544 parameters; * ")
    assert logits.startswith("the tap logits ")
    assert layers[0].startswith("input_layer")  # Keras numbers the inputs of a process
    assert layers[0].split()[1:] == ["InputLayer", "224x224x3", "0"]
    assert layers[1].split() == ["block1_conv1", "Conv2D", "block1_conv1", "224x224x64", "1,792", "relu"]
    assert layers[-3].split() == ["fc1", "Dense", "fc1", "4096", "102,764,544", "relu"]
    assert layers[-2].split() == ["fc2", "Dense", "fc2", "*", "4096", "16,781,312", "relu"]
    assert layers[-1].split() == ["predictions", "Dense", "predictions", "*", "1000", "4,097,000", "softmax"]


def test_epochs_are_shown_as_they_end(invoke, tmp_path, fake_cache):
    options = ("--head", "softmax", "--tap", "features", "-p", "epochs=3")
    done = invoke("train", fake_cache, tmp_path / "head", *options)
    lines = done.out.splitlines()
    assert lines[0] == "epoch      loss  accuracy  valid_loss  valid_accuracy"
    assert [re.fullmatch(r" +(\d)( +\d\.\d{4}){4}", line)[1] for line in lines[1:4]] == ["1", "2", "3"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert re.fullmatch(r".*head: softmax on features, 28 train and 12 valid rows, \d+\.\d\d s", lines[4])
    assert re.fullmatch(r"train accuracy \d\.\d{4}, valid accuracy \d\.\d{4}", lines[5])
    assert done.err == ""


def test_evaluate_shows_every_number(invoke, fake_head, fake_cache, tmp_path):
    table = tmp_path / "table.csv"
    done = invoke("evaluate", fake_head, fake_cache, "--predictions", table)
    assert done.err == ""
    for line in (
        r"rows +12     95 % interval",
        r"accuracy +1\.0000  0\.\d{4} to 1\.0000",
        r"majority baseline +0\.5000",
        r"balanced accuracy +1\.0000",
        r"log loss +0\.\d{4}  0\.\d{4} to 0\.\d{4}",
        r"calibration error +0\.\d{4}  0\.\d{4} to 0\.\d{4}",
        r"ROC AUC +1\.0000",
        r"class  precision  recall      F1  rows",
        r"blue      1\.0000  1\.0000  1\.0000     6",
        r"      blue  red",
        r"blue     6    0",
        rf"predictions: {re.escape(str(table))}",
    ):
        assert re.search(f"^{line}$", done.out, re.MULTILINE), (line, done.out)


@pytest.mark.usefixtures("fast_network")
def test_predict_shows_a_line_for_each_image(invoke, real_head, images):
    done = invoke("predict", real_head, images / "valid")
    header, *lines = done.out.splitlines()
    assert header.split() == ["class", "blue", "red", "image"]
    assert len(lines) == 12
    assert all(re.fullmatch(r"(blue|red) +\d\.\d{4}  \d\.\d{4}  \S+\.png", line) for line in lines)
    assert done.err == "starting mobilenet_v2 with random:0 weights on openvino\n"
