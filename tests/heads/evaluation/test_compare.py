"""Comparisons of tables whose numbers are all known; SciPy and rules applied by hand are the oracles."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from heads.errors import MismatchError
from heads.evaluation.compare import Comparison, compare
from heads.evaluation.evaluate import evaluate_table
from heads.evaluation.intervals import holm
from heads.evaluation.predictions import PredictionsTable

TRUE = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def evaluated(predicted, true=TRUE, *, sure=0.6, paths=None, classes=("ant", "bee", "cow")):
    """Evaluate a head that names these classes, with a probability of ``sure``, which may differ by row."""
    n, k = len(predicted), len(classes)
    sureness = np.broadcast_to(sure, n)
    probabilities = np.repeat(((1 - sureness) / (k - 1))[:, np.newaxis], k, axis=1)
    probabilities[np.arange(n), predicted] = sureness
    names = np.array([f"{row}.jpg" for row in range(n)] if paths is None else paths, dtype=object)
    return evaluate_table(
        PredictionsTable(names, np.array(["valid"] * n, dtype=object), np.array(true), probabilities, classes)
    )


PERFECT = TRUE
ONE_WRONG = [1, 0, 0, 1, 1, 1, 2, 2, 2, 2]
ANTS = [0] * 10


def test_every_number_of_three_heads_by_hand():
    comparison = compare({"x": evaluated(PERFECT), "y": evaluated(ONE_WRONG), "z": evaluated(ANTS)})
    assert comparison.names == ("x", "y", "z")
    first, second, third = comparison.pairs
    assert [(pair.a, pair.b) for pair in comparison.pairs] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert [(pair.only_a, pair.only_b) for pair in comparison.pairs] == [(1, 0), (7, 0), (7, 1)]
    assert first.p_value == 1  # one row cannot tell
    assert second.p_value == pytest.approx(2 / 2**7)
    assert third.p_value == pytest.approx(2 * (1 + 8) / 2**8)
    assert second.p_adjusted == pytest.approx(3 * 2 / 2**7)
    assert third.p_adjusted == pytest.approx(2 * 18 / 2**8)
    assert first.p_adjusted == 1
    assert [pair.difference.value for pair in comparison.pairs] == pytest.approx([0.1, 0.7, 0.6])
    assert all(pair.difference.low <= pair.difference.value <= pair.difference.high for pair in comparison.pairs)
    assert second.difference.low > 0 >= first.difference.low
    # row 0 is disputed by y alone against x and z; rows 3 to 9 by z alone
    assert comparison.disagreements().tolist() == [0, 3, 4, 5, 6, 7, 8, 9]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_p_values_and_differences_of_any_heads(seed, heads):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, 40)
    named = {f"h{each}": evaluated(np.where(rng.random(40) < 0.7, true, 0), true) for each in range(heads)}
    comparison = compare(named, seed=seed)
    p_values = []
    for pair in comparison.pairs:
        a, b = named[pair.a].table.correct, named[pair.b].table.correct
        assert (pair.only_a, pair.only_b) == (np.sum(a & ~b), np.sum(b & ~a))
        differing = pair.only_a + pair.only_b
        p_values.append(binomtest(pair.only_a, differing).pvalue if differing else 1.0)
        assert pair.difference.value == pytest.approx(a.mean() - b.mean())
    assert [pair.p_value for pair in comparison.pairs] == pytest.approx(p_values)
    assert [pair.p_adjusted for pair in comparison.pairs] == pytest.approx(holm(p_values))
    assert len(comparison.pairs) == heads * (heads - 1) / 2


def test_the_seed_changes_the_resamples_alone():
    named = {"x": evaluated(PERFECT), "y": evaluated(ONE_WRONG), "z": evaluated(ANTS)}
    first, other = compare(named, seed=0), compare(named, seed=1)
    assert compare(named).to_dict() == first.to_dict()
    assert first.pairs != other.pairs
    strip = [replace(pair, difference=pair.difference.value) for pair in first.pairs]
    assert strip == [replace(pair, difference=pair.difference.value) for pair in other.pairs]


def test_the_most_disputed_rows_come_first():
    true = [0, 0, 0, 0]
    comparison = compare(
        {
            "x": evaluated([0, 0, 0, 0], true, sure=[0.5, 0.5, 0.5, 0.9]),
            "y": evaluated([0, 1, 1, 0], true),
            "z": evaluated([0, 2, 0, 1], true),
        }
    )
    # in row 1 all three disagree; in rows 2 and 3 one does, and in row 3 they are surer
    assert comparison.disagreements().tolist() == [1, 3, 2]


def test_heads_that_agree_dispute_nothing():
    comparison = compare({"x": evaluated(ONE_WRONG), "y": evaluated(ONE_WRONG)})
    assert comparison.disagreements().tolist() == []
    assert comparison.pairs[0].p_adjusted == 1
    assert comparison.to_dict()["disagreements"] == 0


def test_what_is_told_is_plain_json():
    told = compare({"x": evaluated(PERFECT), "y": evaluated(ANTS)}).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["n"] == 10
    assert told["classes"] == ["ant", "bee", "cow"]
    assert [(head["head_dir"], head["accuracy"]["value"]) for head in told["heads"]] == [("x", 1.0), ("y", 0.3)]
    assert set(told["heads"][0]) > {"log_loss", "roc_auc", "intervals", "per_class"}
    assert set(told["pairs"][0]) == {"a", "b", "only_a", "only_b", "p_value", "p_adjusted", "difference"}
    assert set(told["pairs"][0]["difference"]) == {"value", "low", "high"}
    assert told["disagreements"] == 7
    assert [warning["code"] for warning in told["warnings"]] == ["undefined_score", "below_baseline"]
    assert told["warnings"][0]["message"].startswith("y: no row was predicted as 'bee', 'cow'")
    assert told["warnings"][1]["message"].startswith("y: the head is less accurate than the majority baseline")


def test_warnings_that_hold_for_all_heads_are_said_once():
    true = [0, 1, 0, 1]
    told = compare({"x": evaluated(true, true), "y": evaluated([1, 0, 0, 1], true)}).warnings
    assert len(told) == 2
    assert told[0].message.startswith("no row is of the class 'cow'")
    assert told[1].message.startswith("no row was predicted as 'cow'")


def test_warnings_of_one_head_name_it_wherever_it_stands():
    named = {"z": evaluated(ANTS), "x": evaluated(PERFECT)}
    for order in (named, dict(reversed(named.items()))):
        assert [notice.message[:3] for notice in compare(order).warnings] == ["z: ", "z: "]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_heads_are_no_comparison(count):
    with pytest.raises(MismatchError, match=f"{count} head"):
        compare(dict([("x", evaluated(PERFECT))][:count]))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (evaluated(TRUE[:9], TRUE[:9]), "10 and 9 rows"),
        (evaluated(TRUE, paths=[f"{row}.jpg" for row in range(9)] + ["new.jpg"]), r"'9\.jpg', the other on 'new\.jpg'"),
        (evaluated(TRUE, [1, *TRUE[1:]]), r"'0\.jpg' is labelled 'ant' and 'bee'"),
        (evaluated(TRUE, classes=("ant", "bee", "cat")), r"'6\.jpg' is labelled 'cow' and 'cat'"),
    ],
    ids=["length", "paths", "labels", "classes"],
)
def test_heads_judged_on_other_rows_are_refused_by_name(other, reason):
    with pytest.raises(MismatchError, match=f"x and z cannot be compared: .*{reason}"):
        compare({"x": evaluated(PERFECT), "y": evaluated(ANTS), "z": other})


P, Q = np.array(["p", "q"] * 5, object), np.array(["p"] * 4 + ["q"] * 6, object)


@pytest.mark.parametrize("groups", [(P, None), (None, P), (P, Q)], ids=["only x", "only y", "other ones"])
def test_heads_judged_in_other_groups_are_refused(groups):
    x, y = (evaluate_table(replace(evaluated(TRUE).table, groups=each)) for each in groups)
    with pytest.raises(MismatchError, match="x and y cannot be compared: their rows are in different groups"):
        compare({"x": x, "y": y})


def test_rows_in_another_order_are_the_same_rows():
    order = np.random.default_rng(0).permutation(10)
    table = evaluated(ANTS).table.take(order)
    comparison = compare({"x": evaluated(PERFECT), "y": evaluate_table(table)})
    assert comparison.pairs == compare({"x": evaluated(PERFECT), "y": evaluated(ANTS)}).pairs


def test_heads_with_other_classes_are_compared_by_the_names_of_classes():
    """The second head has one class more, and another order."""
    first = evaluated(ONE_WRONG)
    names = ("cow", "ant", "dog", "bee")
    numbers = [names.index(("ant", "bee", "cow")[label]) for label in TRUE]
    predicted = [names.index("dog"), *numbers[1:]]
    second = evaluated(predicted, numbers, classes=names)
    third = evaluated([0] * 10, classes=("ant", "bee", "cow"))
    comparison = compare({"x": first, "y": second, "z": third})
    assert comparison.classes == ("ant", "bee", "cow", "dog")
    assert [(pair.only_a, pair.only_b) for pair in comparison.pairs] == [(0, 0), (7, 1), (7, 1)]
    assert [pair.p_value for pair in comparison.pairs] == pytest.approx([1, 2 * 9 / 2**8, 2 * 9 / 2**8])
    # row 0 is a bee, a dog and an ant to them; x and y agree on all others, and z finds an ant everywhere
    assert comparison.disagreements().tolist() == [0, 3, 4, 5, 6, 7, 8, 9]
    assert json.loads(json.dumps(comparison.to_dict(), allow_nan=False))["classes"] == list(comparison.classes)


def test_a_comparison_keeps_its_heads_as_they_were():
    named = {"x": evaluated(PERFECT), "y": evaluated(ANTS)}
    comparison = compare(named)
    named.clear()
    assert isinstance(comparison, Comparison)
    assert len(comparison) == 10
    assert comparison.names == ("x", "y")


def test_a_notebook_shows_heads_and_pairs_with_names_escaped():
    html = compare({"<script>": evaluated(PERFECT), "y&": evaluated(ANTS)})._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "y&amp;" in html
    assert "0.0156" in html  # 2 / 2**7
    assert "10 rows<" in html
    assert "1 pair<" in html
    columns = re.findall('<th scope="col"(.*?)><bdi>(.*?)</bdi>', html)
    assert [name for attributes, name in columns if "words" in attributes] == ["head", "head", "and head"]


def test_a_notebook_shows_the_first_pairs():
    html = compare({f"h{each}": evaluated(ANTS) for each in range(7)})._repr_html_()
    assert "21 pairs, of which the first 20 are shown" in html
    assert html.count('<td class="words"><bdi>h6<') == 5, "all but the last of its six pairs"
