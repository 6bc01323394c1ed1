"""``featurecache similar``: text, JSON and a report; known images and rows need no network."""

import json

import numpy as np

import featurecache


def test_rows_and_known_images_as_text_json_and_report(invoke, fake_cache, images, tmp_path):
    cache = featurecache.FeatureCache.open(fake_cache)
    rows = cache.features("features")
    place = 3
    X = rows.X.astype(np.float64)
    cosines = X @ X[place] / np.linalg.norm(X, axis=1) / np.linalg.norm(X[place])
    order = [row for row in np.argsort(-cosines, kind="stable") if row != place][:2]
    path, known = rows.paths[place], images / rows.paths[0]
    report = tmp_path / "similar.html"
    options = ("--tap", "features", "-k", "2")

    done = invoke("similar", fake_cache, known, "--row", path, *options, "--report", report)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"{path}:"
    assert lines[1].split() == ["similarity", "label", "split", "image"]
    assert [line.split() for line in lines[2:4]] == [
        [f"{cosines[row]:.4f}", rows.classes[rows.y[row]], rows.splits[row], rows.paths[row]] for row in order
    ]
    assert lines[5] == f"{known}:"
    assert lines[7].split() == ["1.0000", rows.classes[rows.y[0]], rows.splits[0], rows.paths[0]]
    assert lines[-1] == f"report: {report}"
    page = report.read_text()
    assert page.count("data:image/jpeg") == 6
    assert rows.paths[order[0]] in page

    found = invoke("similar", fake_cache, known, "--row", path, *options, "--json").json
    assert [(one["path"], one["in_cache"]) for one in found["similar"]] == [(path, True), (str(known), False)]
    assert [image["path"] for image in found["similar"][0]["images"]] == rows.paths[order].tolist()
    assert (found["tap"], found["n_images"], found["failures"]) == ("features", len(rows), [])
    json.dumps(found, allow_nan=False)
