"""Options: each declared once, checked when built, and taken by every function and command that has them."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from featurecache import FolderSource, Manifest, extract, extraction, planning, preparation, read_manifest
from featurecache.cli.app import app
from featurecache.errors import OptionError, UnknownNameError
from featurecache.images import decode
from featurecache.images.manifest import ImageEntry
from featurecache.options import (
    FILTERS,
    ClusterOptions,
    DecodeOptions,
    ImageOptions,
    NetworkOptions,
    RunOptions,
    check_without_words,
    completed,
    declared,
)
from featurecache.planning import why
from featurecache.verification import verify
from heads import finetune, predict

GROUPS = (NetworkOptions, DecodeOptions, ImageOptions, RunOptions)
CLUSTER = {item.name: item.default for item in fields(ClusterOptions)}
DECLARED = {item.name: item.default for group in GROUPS for item in fields(group)}
COMMAND_ONLY = {"json", "strict", "help"}


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    return {item.name: item.default for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}


def command_options(name):
    command = typer.main.get_command(app).commands[name]
    return {item.name: item for item in command.params if item.param_type_name == "option"}


def test_extract_and_why_take_every_declared_option_with_its_default():
    callbacks = {"progress", "notify"}
    for use_case, options in ((extract, DECLARED | CLUSTER), (why, DECLARED)):
        assert {name: value for name, value in keywords(use_case).items() if name not in callbacks} == options


def test_read_manifest_takes_every_option_of_the_list_of_images():
    assert keywords(read_manifest) == {item.name: item.default for item in fields(ImageOptions)}


OTHER_VALUES = {
    "backbone": "vgg19",
    "weights": "random:3",
    "taps": ("fc1", "block5"),
    "preprocess": "tf",
    "input_size": "32x48",
    "precision": "mixed",
    "dtype": "float16",
    "resize": "crop",
    "filter": "lanczos",
    "part_rows": 1000,
    "max_pixels": 1234,
    "views": "3:crop",
    "root": Path("somewhere"),
    "label_from_name": True,
    "path_column": "file",
    "label_column": "class",
    "split_column": "subset",
    "frames": "all",
    "class_order": "natural",
    "batch_size": "auto",
    "workers": 3,
    "device": "cpu",
    "engine": "numba",
    "part": "2/4",
    "rehash": True,
    "retry_failures": True,
    "replace": True,
}


class ReachedError(Exception):
    """Ends a use case where its options have arrived."""


@pytest.mark.parametrize(("module", "use_case"), [(extraction, extract), (planning, why)])
def test_every_option_reaches_the_preparation(monkeypatch, tmp_path, module, use_case):
    assert OTHER_VALUES.keys() == DECLARED.keys()
    assert all(value != DECLARED[name] for name, value in OTHER_VALUES.items())
    groups = []

    def read_options(images, options, **others):
        groups.append(options)
        return Manifest(FolderSource(images), (ImageEntry("a.png", -1, "train"),), ())

    def stop(existing, *, network, decode, run, **others):
        groups.extend([network, decode, run])
        raise ReachedError

    monkeypatch.setattr(preparation, "manifest_of", read_options)
    monkeypatch.setattr(module, "prepare", stop)
    with pytest.raises(ReachedError):
        use_case(tmp_path, tmp_path / "c.h5", **OTHER_VALUES)
    assert len(groups) == len(GROUPS)
    assert {item.name: getattr(group, item.name) for group in groups for item in fields(group)} == OTHER_VALUES


@pytest.mark.parametrize("name", ["extract", "why"])
def test_the_commands_take_every_declared_option_with_its_default_and_help(name):
    options = command_options(name)
    known = DECLARED | (CLUSTER if name == "extract" else {})
    assert options.keys() - COMMAND_ONLY == known.keys()
    for group in (*GROUPS, *([ClusterOptions] if name == "extract" else [])):
        for option, declaration in declared(group).items():
            assert options[option].default == known[option]
            assert options[option].help.startswith(declaration.help.rstrip("."))


def test_why_takes_the_options_of_extract():
    assert list(command_options("why")) == [name for name in command_options("extract") if name not in CLUSTER]


@pytest.mark.parametrize(("function", "name"), [(predict, "predict"), (finetune, "finetune"), (verify, "verify")])
def test_other_commands_take_their_ranges_from_there_as_well(function, name):
    options, declarations = command_options(name), declared(RunOptions)
    shared = options.keys() & declarations.keys()
    assert {"device"} <= shared
    for option in shared:
        assert options[option].default == DECLARED[option]
        assert options[option].help == declarations[option].help
        if declarations[option].high:
            assert (options[option].min, options[option].max) == (1, declarations[option].high)
        assert keywords(function)[option] == DECLARED[option]


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (NetworkOptions, {"precision": "half"}, "unknown precision 'half'"),
        (NetworkOptions, {"dtype": "int8"}, "unknown dtype 'int8'"),
        (DecodeOptions, {"resize": "stretch"}, "unknown resize rule 'stretch'"),
        (DecodeOptions, {"filter": "box"}, "unknown filter 'box'"),
        (RunOptions, {"device": "tpu"}, "unknown device 'tpu'"),
        (RunOptions, {"engine": "onnx"}, "unknown engine 'onnx'"),
    ],
)
def test_unknown_choices_are_refused(group, values, message):
    with pytest.raises(UnknownNameError, match=message):
        group(**values)


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (DecodeOptions, {"max_pixels": 0}, "max_pixels is 0; expected a whole number from 1 to 1,000,000,000"),
        (RunOptions, {"batch_size": 4097}, "batch_size is 4097; expected a whole number from 1 to 4,096, or 'auto'"),
        (RunOptions, {"batch_size": True}, "batch_size is True"),
        (RunOptions, {"workers": "auto"}, "workers is 'auto'; expected a whole number from 1 to 1,024$"),
    ],
)
def test_numbers_out_of_range_are_refused(group, values, message):
    with pytest.raises(OptionError, match=message):
        group(**values)


@pytest.mark.parametrize("values", [{"gpus_per_worker": 0}, {"cpus_per_worker": 1}, {"mixed_workers": True}])
def test_what_workers_of_a_cluster_have_is_refused_without_one(values):
    (name,) = values
    with pytest.raises(
        OptionError, match=f"^{name} is for workers of a cluster; leave it out, or give cluster as well"
    ):
        ClusterOptions(**values)
    assert getattr(ClusterOptions(cluster="local", **values), name) == values[name]


@pytest.mark.parametrize("value", ["auto", "4", 0, 4097, 2.0, True])
def test_a_word_is_refused_where_only_numbers_are_allowed(value):
    with pytest.raises(OptionError, match=f"^batch_size is {value!r}; expected a whole number from 1 to 4,096$"):
        check_without_words(RunOptions, batch_size=value, device="cpu")
    check_without_words(RunOptions, batch_size=4, workers=None, engine="auto")


def test_what_is_not_given_is_known_or_the_fallback():
    options = completed(NetworkOptions(weights="random:1"), {"backbone": "resnet50", "weights": "random:0"})
    assert (options.backbone, options.weights, options.taps) == ("resnet50", "random:1", None)
    assert (options.precision, options.dtype) == ("float32", "float32")


def test_every_filter_can_be_used():
    assert set(FILTERS) == set(decode._FILTERS)
