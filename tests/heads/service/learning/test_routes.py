"""Similar images, thumbnails and corrections over HTTP."""

import hashlib
import io
import shutil

import numpy as np
import pytest
from PIL import Image

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def post(service, route, path, **query):
    return service.client.post(route, content=path.read_bytes(), params=query)


def test_similar_images_are_those_of_a_search(service, place):
    path = place.image("valid/red/2.png")
    answer = post(service, "similar", path, k=5, tap="features").json()
    rows = place.cache.features("features")
    query = rows.X[rows.paths.tolist().index("valid/red/2.png")]
    [expected] = heads.SimilaritySearch(place.cache, "features").nearest(query[np.newaxis], 5)

    [result] = answer["results"]
    assert (answer["tap"], result["sha256"], result["pass"]) == ("features", sha256(path), False)
    assert result["neighbours"] == [image.to_dict() for image in expected]
    assert result["neighbours"][0]["path"] == "valid/red/2.png"


def test_many_images_and_unusable_ones_at_once(service, place):
    files = [
        ("image", (path.name, path.read_bytes())) for path in (place.folder / "new-red.png", place.folder / "words.png")
    ]
    answer = service.client.post("similar", files=files, params={"k": 3})
    good, bad = answer.json()["results"]
    assert answer.status_code == 200
    assert ([image["label"] for image in good["neighbours"]], good["found"]) == (["red"] * 3, "network")
    assert bad["error"]["code"] == "not_an_image"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [({"k": 0}, 422, "bad_parameter"), ({"k": "x"}, 422, "bad_parameter"), ({"tap": "no"}, 404, "unknown_name")],
)
def test_a_bad_query_is_a_clear_error(service, place, query, status, code):
    answer = post(service, "similar", place.folder / "new-red.png", **query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_thumbnail_is_the_image_made_small(service, place):
    path = place.image("train/red/0.png")
    answer = service.client.get(f"cached/{sha256(path)}")
    assert answer.headers["content-type"] == "image/jpeg"
    small = Image.open(io.BytesIO(answer.content))
    assert small.size == (96, 72)
    difference = np.asarray(small, np.int64) - np.asarray(Image.open(path), np.int64)
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize(
    ("name", "status"),
    [("0" * 64, 404), ("../c.h5", 404), ("%2e%2e%2fc.h5", 404), ("train/red/0.png", 404), ("A" * 64, 422), ("0", 422)],
)
def test_nothing_but_digests_of_the_cache_leads_to_an_image(service, name, status):
    assert service.client.get(f"cached/{name}").status_code == status


def test_an_original_that_has_changed_is_not_shown(serve, place, prepared):
    (place.folder / "images").unlink()
    shutil.copytree(prepared / "images", place.folder / "images")
    images = featurecache.read_manifest(place.folder / "images")
    cache = featurecache.extract(images, place.folder / "own.h5", backbone=FakeBackbone())
    head = heads.train(cache, "centroid", tap="features").save(place.folder / "own")
    service = serve(head, cache=cache.path, backbone=FakeBackbone())
    digest = sha256(place.image("train/red/0.png"))
    assert service.client.get(f"cached/{digest}").status_code == 200
    shutil.copy(place.image("train/red/1.png"), place.image("train/red/0.png"))
    assert service.client.get(f"cached/{digest}").status_code == 404


def test_a_correction_of_a_cached_image(service, place):
    digest = sha256(place.image("train/red/0.png"))
    assert service.client.get("corrections").json() == {"corrections": []}
    answer = service.client.post("corrections", json={"sha256": digest, "label": "pink"})
    assert answer.json() == {"corrections": 1}
    assert service.client.get("corrections").json() == {
        "corrections": [{"path": "train/red/0.png", "sha256": digest, "label": "pink"}]
    }
    assert (place.folder / "corrections.csv").read_text() == "path,label\ntrain/red/0.png,pink\n"
    assert service.client.post("corrections", json={"sha256": digest, "label": None}).json() == {"corrections": 0}


def test_a_correction_of_a_new_image_keeps_its_bytes(service, place):
    path = place.folder / "new-red.png"
    refused = service.client.post("corrections", json={"sha256": sha256(path), "label": "pink"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_image")
    assert post(service, "corrections", path, label="pink").json() == {"corrections": 1}
    assert post(service, "corrections", path, label="rosé").json() == {"corrections": 1}
    assert service.client.post("corrections", json={"sha256": sha256(path), "label": "pink"}).status_code == 200

    stored = place.folder / "corrections" / "train" / f"{sha256(path)}.png"
    assert stored.read_bytes() == path.read_bytes()
    assert service.client.get(f"cached/{sha256(path)}").status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{}", 422, "bad_parameter"),
        (b"{", 422, "bad_parameter"),
        (b'{"sha256": 5, "label": "a"}', 422, "bad_parameter"),
        (b'{"sha256": "../../x", "label": "a"}', 422, "bad_parameter"),
        (b'{"sha256": "' + b"0" * 64 + b'", "label": "\\u0007"}', 422, "bad_parameter"),
    ],
)
def test_a_bad_correction_is_a_clear_error(service, place, body, status, code):
    answer = service.client.post("corrections", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert not (place.folder / "corrections.csv").exists()


def test_an_image_that_is_none_is_not_kept(service, place):
    answer = post(service, "corrections", place.folder / "words.png", label="red")
    assert answer.status_code == 422
    assert post(service, "corrections", place.folder / "new-red.png").json()["error"]["code"] == "no_label"
    assert not (place.folder / "corrections").exists()


def test_a_broken_table_is_said_and_left_alone(service, place):
    (place.folder / "corrections.csv").write_text("broken")
    answer = service.client.get("corrections")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "unusable_table")
    assert "corrections.csv has 0 columns 'path'" in answer.json()["error"]["message"]
    assert (place.folder / "corrections.csv").read_text() == "broken"


def test_an_image_that_cannot_be_stored_is_no_fault_of_the_client(service, place):
    (place.folder / "corrections").write_text("a file in place of the folder")
    answer = post(service, "corrections", place.folder / "new-red.png", label="red")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_stored")
    assert not (place.folder / "corrections.csv").exists()


def test_without_a_cache_the_routes_say_so(serve, place):
    service = serve(place.folder / "heads")
    for answer in (
        post(service, "similar", place.folder / "new-red.png"),
        service.client.get(f"cached/{'0' * 64}"),
        service.client.get("corrections"),
        service.client.post("corrections", json={"sha256": "0" * 64, "label": "red"}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_cache")


def test_a_wrong_method_names_the_right_ones(service):
    answer = service.client.request("PUT", "corrections")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    answer = service.client.request("POST", "jobs/1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")
