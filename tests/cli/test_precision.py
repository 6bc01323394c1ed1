"""``featurecache precision``: text and JSON; another type needs no network."""

import featurecache


def test_another_type_as_text_and_json(invoke, fake_cache, fake_head):
    n = len(featurecache.FeatureCache.open(fake_cache))
    found = invoke("precision", fake_cache, fake_head, "--dtype", "float16", "--json").json
    assert (found["n"], found["dtype"], found["engine"]) == (n, "float16", "")
    assert 0 < found["error_max"] < 0.001
    assert found["flipped"].keys() == {"value", "low", "high"}
    done = invoke("precision", fake_cache, fake_head, "--dtype", "float16")
    assert done.code == 0, done.err
    assert f"{n} rows with float32 precision, float16 features" in done.out
    assert f"{len(found['flips'])} of {n} decisions differ: " in done.out
