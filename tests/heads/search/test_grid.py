"""Which candidates a sweep consists of, and how values to try are written."""

import pytest

from featurecache.errors import UnknownNameError
from heads.catalog import HEADS
from heads.errors import ParameterError
from heads.search.grid import BASELINE, candidates_of, parse_grids


def tried(candidates, *names):
    return [
        (each.head, each.tap, *(each.params[name] for name in names)) for each in candidates if each.head != BASELINE
    ]


def test_every_combination_is_tried_in_plan_order():
    grids = {"softmax": {"lr": [0.1, 0.2], "l2": [0, 0.5]}}
    assert tried(candidates_of(["softmax"], ["fc1", "fc2"], grids), "lr", "l2") == [
        ("softmax", tap, lr, l2) for tap in ("fc1", "fc2") for lr in (0.1, 0.2) for l2 in (0.0, 0.5)
    ]


def test_parameters_without_values_have_their_defaults():
    (candidate, _) = candidates_of(["logreg"], ["fc2"], {"logreg": {"C": [3]}})
    assert candidate.params == {"C": 3.0, "max_iter": 1000, "tol": 1e-4, "class_weight": "none", "standardize": True}
    assert candidate.standardize


def test_the_catalogue_has_values_for_what_is_not_named():
    grid = HEADS["softmax"].grid
    candidates = candidates_of(["softmax"], ["fc2"], {"softmax": {"l2": [0.5]}})
    assert tried(candidates, "lr", "l2") == [("softmax", "fc2", lr, 0.5) for lr in grid["lr"]]


def test_the_floor_is_always_tried_once():
    for heads in (["logreg"], [BASELINE], ["logreg", BASELINE], []):
        floors = [each for each in candidates_of(heads, ["fc1", "fc2"], {}) if each.head == BASELINE]
        assert [(each.tap, each.params) for each in floors] == [("fc1", {})]


def test_no_head_named_means_all_that_can_take_a_tap():
    assert {each.head for each in candidates_of([], ["predictions"], {})} == set(HEADS)
    assert {each.head for each in candidates_of([], ["fc2"], {})} == set(HEADS) - {"imagenet_map"}


def test_a_head_is_tried_on_the_taps_that_it_can_take():
    assert tried(candidates_of(["imagenet_map"], ["fc2", "predictions"], {})) == [("imagenet_map", "predictions")]


def test_a_head_that_was_named_and_can_take_no_tap_is_refused():
    with pytest.raises(ParameterError, match="imagenet_map takes the tap predictions alone, not fc1, fc2; leave it"):
        candidates_of(["imagenet_map"], ["fc1", "fc2"], {})


def test_no_candidate_is_tried_twice():
    candidates = candidates_of(["logreg", "logreg"], ["fc2"], {"logreg": {"C": [1, 1.0, 2]}})
    assert tried(candidates, "C") == [("logreg", "fc2", 1.0), ("logreg", "fc2", 2.0)]


def test_candidates_of_a_family_differ_in_shared_parameters_alone():
    grids = {"softmax": {"lr": [0.1, 0.2], "batch_size": [8, 16]}}
    families = {}
    for each in candidates_of(["softmax"], ["fc1", "fc2"], grids | {}):
        families.setdefault(each.family, []).append(each)
    shapes = {(name, tap): [] for name, tap, _ in families}
    for (name, tap, _), members in families.items():
        shapes[name, tap].append(len(members))
    l2 = len(HEADS["softmax"].grid["l2"])
    assert shapes == {("softmax", "fc1"): [2 * l2] * 2, ("softmax", "fc2"): [2 * l2] * 2, (BASELINE, "fc1"): [1]}


@pytest.mark.parametrize(
    ("heads", "grids", "error", "said"),
    [
        (["logrek"], {}, UnknownNameError, "unknown head 'logrek'; did you mean 'logreg'"),
        (["logreg"], {"svm": {"C": [1]}}, ParameterError, r"a grid for 'svm', which is not tried \(heads: logreg\)"),
        (
            ["logreg"],
            {"logreg": {"c": [1]}},
            ParameterError,
            r"unknown parameter 'c'; did you mean 'C'\? .parameters: C, max_iter",
        ),
        (["logreg"], {"logreg": {"C": [1, -1]}}, ParameterError, "head 'logreg': C is -1, expected a number above 0"),
        (["logreg"], {"logreg": {"C": []}}, ParameterError, "head 'logreg': there is no value to try for C"),
    ],
)
def test_bad_candidates(heads, grids, error, said):
    with pytest.raises(error, match=said):
        candidates_of(heads, ["fc2"], grids)


def test_a_key_stands_for_every_head_that_has_it_and_one_with_its_head_takes_precedence():
    assert parse_grids(["svm.C=10", "C=0.1,1", "l2=0"], ["softmax", "logreg", "svm"]) == {
        "softmax": {"l2": (0.0,)},
        "logreg": {"C": (0.1, 1.0)},
        "svm": {"C": (10.0,)},
    }


def test_without_heads_a_key_stands_for_all_of_the_catalogue():
    assert set(parse_grids(["standardize=true,false"], [])) == {
        spec.name for spec in HEADS.values() if "standardize" in {each.name for each in spec.parameters}
    }


def test_values_with_commas_are_separated_by_semicolons():
    assert parse_grids(["hidden=256;512,256"], ["mlp"]) == {"mlp": {"hidden": ("256", "512,256")}}
    assert parse_grids(["hidden=64,32"], ["mlp"]) == {"mlp": {"hidden": ("64,32",)}}


def test_a_key_given_twice_has_the_values_of_both():
    assert parse_grids(["hidden=256", "mlp.lr=1", "hidden=64,32", "mlp.lr= 2"], ["mlp"]) == {
        "mlp": {"hidden": ("256", "64,32"), "lr": (1.0, 2.0)}
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("C", "C has no values, expected C=VALUE,VALUE"),
        ("C=", "head 'logreg': C is '', expected a number above 0"),
        ("C=1,x", "head 'logreg': C is 'x', expected a number above 0"),
        ("learning=1", r"no head that is tried has a parameter 'learning' \(softmax: lr, .*; logreg: C, max_iter"),
        ("epoch=1", "'epoch'; did you mean 'epochs'"),
        ("softmax.C=1", "unknown parameter 'C' .parameters: lr, epochs"),
        ("svm.C=1", r"unknown head in a parameter 'svm' \(known: logreg, softmax\)"),
    ],
)
def test_values_that_cannot_be_tried(text, said):
    with pytest.raises(ParameterError, match=said):
        parse_grids([text], ["softmax", "logreg"])


def test_all_faults_are_told_at_once():
    with pytest.raises(ParameterError, match=r"C is -1\.0.*; .*'foo'.*; bar has no values"):
        parse_grids(["C=-1", "foo=1", "bar"], ["logreg"])


def test_a_head_that_does_not_exist():
    with pytest.raises(UnknownNameError, match="unknown head 'x'"):
        parse_grids([], ["x"])
