"""The routes over a real connection: what they answer, what they refuse, and that they go on afterwards."""

import hashlib
import io
import json
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import heads
from featurecache import FeatureCache, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError
from heads.service.reading import Reader

WIDTHS = {"features": 16, "predictions": 4}
NOT_SEEN = 10_000


def counts(client, **headers):
    """Return the counters by name and labels."""
    text = client.get("/metrics", headers=headers).text
    return {
        (sample.name.removeprefix("featurecache_"), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counted(values, name, /, **labels):
    return values.get((name, *sorted(labels.items())), 0)


def expected(dataset, name, contents, tmp_path):
    """Return what `heads.predict` gives for contents, shape (n, k)."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(content)
    head = heads.TrainedHead.load(dataset.heads / name)
    return heads.predict(head, paths, backbone=FakeBackbone(WIDTHS)).table


def error_of(response, status, code):
    """Return the message of an error, after checks of its form."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["request"] == response.headers["x-request-id"]
    found = body["error"] if isinstance(body["error"], dict) else {"code": body["code"], "message": body["error"]}
    assert found["code"] == code
    assert found["message"].isprintable()
    return found["message"]


def test_an_image_gets_what_predict_gives_from_every_head(run_server, dataset, png, tmp_path):
    client = run_server().client
    contents = [png(NOT_SEEN + number) for number in range(5)]
    results = [client.post("/predict", content=content).json()["results"][0] for content in contents]
    form = client.post("/predict", files=[("image", (f"{n}.png", data)) for n, data in enumerate(contents)]).json()
    for name in ("blue", "red"):
        table = expected(dataset, name, contents, tmp_path)
        for number, (alone, together) in enumerate(zip(results, form["results"], strict=True)):
            found = alone["heads"][name]
            assert [found["probabilities"][label] for label in table.classes] == table.probabilities[number].tolist()
            assert found["class"] == table.classes[table.predicted[number]]
            assert found["version"] == heads.TrainedHead.load(dataset.heads / name).identity
            assert together["heads"] == alone["heads"]
    assert [result["sha256"] for result in results] == [hashlib.sha256(data).hexdigest() for data in contents]
    assert [(result["found"], result["pass"], result["name"]) for result in results] == [("network", True, None)] * 5
    assert [(result["found"], result["pass"]) for result in form["results"]] == [("memory", False)] * 5
    assert [result["name"] for result in form["results"]] == [f"{number}.png" for number in range(5)]
    assert form["recipe"] == FeatureCache.open(dataset.cache).recipe.fingerprint


def test_heads_and_classes_can_be_chosen(run_server, png):
    client = run_server().client
    result = client.post("/predict?head=red&top=1", content=png(1)).json()["results"][0]
    assert list(result["heads"]) == ["red"]
    assert len(result["heads"]["red"]["probabilities"]) == 1
    assert "known: blue, red" in error_of(client.post("/predict?head=green", content=png(1)), 404, "unknown_name")


@pytest.mark.parametrize("in_parts", [False, True])
def test_an_image_of_the_cache_costs_no_pass(in_parts, run_server, dataset, tmp_path):
    backbone, path = FakeBackbone(WIDTHS), dataset.cache
    if in_parts:
        path = extract(dataset.images, tmp_path / "parts.h5", backbone=FakeBackbone(WIDTHS), part_rows=15).path
    backbone.forward = None
    client = run_server(cache=path, backbone=backbone).client
    cache = FeatureCache.open(dataset.cache)
    files = [("image", (path.name, path.read_bytes())) for path in dataset.files]
    results = client.post("/predict", files=files).json()["results"]
    assert {(result["found"], result["pass"]) for result in results} == {("cache", False)}
    vectors = client.post("/features?tap=features", files=files).json()["results"]
    features = cache.features("features").X
    np.testing.assert_array_equal(np.array([item["features"]["features"] for item in vectors], np.float32), features)


def test_an_image_that_was_seen_before_a_restart_costs_no_pass(run_server, png, tmp_path):
    seen = tmp_path / "seen.db"
    first = run_server(content_cache_file=seen)
    before = first.client.post("/predict", content=png(NOT_SEEN)).json()["results"][0]
    first.end()
    again = run_server(content_cache_file=seen).client.post("/predict", content=png(NOT_SEEN)).json()["results"][0]
    assert (before.pop("found"), before.pop("pass")) == ("network", True)
    assert (again.pop("found"), again.pop("pass")) == ("file", False)
    assert again == before


def test_features_come_as_json_and_as_a_file_of_numpy(run_server, png):
    client = run_server().client
    contents = [png(NOT_SEEN), png(NOT_SEEN + 1)]
    files = [("image", (str(number), data)) for number, data in enumerate(contents)]
    answer = client.post("/features", files=files).json()["results"]
    assert set(answer[0]["features"]) == set(WIDTHS)
    npy = client.post("/features?tap=features", files=files, headers={"Accept": "application/x-npy"})
    assert npy.headers["content-type"] == "application/x-npy"
    values = np.load(io.BytesIO(npy.content))
    assert (values.shape, values.dtype) == ((2, 16), np.float32)
    np.testing.assert_array_equal(values, np.array([item["features"]["features"] for item in answer], np.float32))
    bad = client.post("/features?tap=features", content=b"no image", headers={"Accept": "application/x-npy"})
    assert bad.status_code == 422
    two = client.post("/features", content=png(1), headers={"Accept": "application/x-npy"})
    assert "add ?tap=, one of features, predictions" in error_of(two, 406, "one_tap")
    assert "known: features, predictions" in error_of(
        client.post("/features?tap=x", content=png(1)), 404, "unknown_name"
    )


def test_unusable_images_have_their_reasons_and_the_others_their_answers(run_server, png):
    client = run_server().client
    good, cut = png(NOT_SEEN), png(NOT_SEEN + 1)[:300]
    files = [("f", ("a", good)), ("f", ("b", b"no image")), ("f", ("c", b"")), ("f", ("d", cut)), ("f", ("e", good))]
    response = client.post("/predict", files=files)
    assert response.status_code == 200
    codes = [result.get("error", {}).get("code", "") for result in response.json()["results"]]
    assert codes == ["", "not_an_image", "empty", "damaged", ""]
    alone = client.post("/predict", content=b"no image")
    assert alone.status_code == 422
    assert "not an image" in alone.json()["results"][0]["error"]["message"]
    assert client.post("/predict", files=files[1:3]).status_code == 422


def test_after_unusable_images_a_thousand_answers_are_right(run_server, dataset, png, tmp_path):
    client = run_server(content_cache_mb=0).client
    contents = [png(NOT_SEEN + number) for number in range(8)]
    table = expected(dataset, "blue", contents, tmp_path)
    for _ in range(20):
        client.post("/predict", files=[("f", ("x", b"bad")), ("f", ("y", contents[0][:200]))])
    right = [dict(zip(table.classes, row, strict=True)) for row in table.probabilities.tolist()]

    def ask(first):
        order = [(first + step) % 8 for step in range(8)]
        files = [("f", (str(number), contents[number])) for number in order]
        return order, client.post("/predict?head=blue", files=files).json()["results"]

    with ThreadPoolExecutor(4) as pool:
        for order, results in pool.map(ask, range(125)):
            assert [result["heads"]["blue"]["probabilities"] for result in results] == [right[n] for n in order]


def test_counters_equal_a_scripted_load(run_server, dataset, png, slow_backbone):
    backbone = slow_backbone()
    client = run_server(cache=dataset.cache, backbone=backbone, batch_size=4).client
    before = counts(client)
    for number in range(6):
        client.post("/predict", content=png(NOT_SEEN + number))
    client.post("/predict", files=[("f", (str(number), png(NOT_SEEN + number))) for number in range(10)])
    client.post("/features", content=dataset.files[0].read_bytes())
    client.post("/predict", content=b"no image")
    client.post("/predict", content=b"")
    client.get("/predict")
    client.get("/nowhere/at-all")
    after = counts(client)

    def grown(name, /, **labels):
        return counted(after, name, **labels) - counted(before, name, **labels)

    assert grown("requests_total", route="/predict", status="200") == 7
    assert grown("requests_total", route="/predict", status="422") == 1
    assert grown("requests_total", route="/predict", status="400") == 1
    assert grown("requests_total", route="/predict", status="405") == 1
    assert grown("requests_total", route="/features", status="200") == 1
    assert grown("requests_total", route="other", status="404") == 1
    assert grown("images_total", found="network") == 10 == sum(backbone.passes)
    assert grown("images_total", found="memory") == 6
    assert grown("images_total", found="cache") == 1
    assert grown("passes_total") == len(backbone.passes) == grown("batch_images_count")
    assert grown("decode_failures_total", code="not_an_image") == 1
    assert grown("request_seconds_count", route="/predict") == 10
    assert counted(after, "heads") == 2
    assert counted(after, "queue_images") == counted(after, "queue_bytes") == 0


def test_too_much_work_is_refused_at_once_and_told_when_to_come_back(run_server, png, slow_backbone, wait_for):
    backbone = slow_backbone()
    server = run_server(backbone=backbone, batch_size=1, queue_images=3)
    backbone.may_pass.clear()
    with ThreadPoolExecutor(4) as pool:
        held = [pool.submit(server.client.post, "/predict", content=png(number)) for number in range(1)]
        assert backbone.is_in_pass.wait(60)
        held += [pool.submit(server.client.post, "/predict", content=png(number)) for number in range(1, 4)]
        wait_for(lambda: server.service.batcher.queued == 3)
        began = time.monotonic()
        refused = server.client.post("/predict", content=png(9))
        assert time.monotonic() - began < 20  # all others wait for a pass that is held
        assert "3 images are waiting, 3 may" in error_of(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert server.client.get("/v2/health/ready").status_code == 200
        backbone.may_pass.set()
        assert [one.result(20).status_code for one in held] == [200] * 4
    many = [("f", (str(number), png(100 + number))) for number in range(4)]
    message = error_of(server.client.post("/predict", files=many), 413, "too_many_images")
    assert message == "the request has 4 new images, and 3 fit into the queue; send fewer at a time"
    assert server.client.post("/predict", content=png(9)).status_code == 200


def test_a_seen_image_and_an_error_are_answered_without_a_thread(run_server, png, monkeypatch):
    client = run_server().client
    assert client.post("/predict", content=png(1)).status_code == 200

    async def fail(*arguments):
        raise RuntimeError("threads are busy")

    monkeypatch.setattr(Reader, "in_thread", fail)
    monkeypatch.setattr("anyio.to_thread.run_sync", fail)
    [result] = client.post("/predict", content=png(1)).json()["results"]
    assert (result["found"], list(result["heads"])) == ("memory", ["blue", "red"])
    assert client.post("/predict", content=b"x" * 1_000_000).status_code == 503


def test_a_search_that_takes_too_long_keeps_its_deadline_and_nobody_else(run_server, dataset, png, monkeypatch):
    may_end = threading.Event()
    monkeypatch.setattr("heads.service.cache_routes._similar", lambda *_: may_end.wait(60))
    client = run_server(cache=dataset.cache, timeout=1).client
    try:
        for number in range(3):
            error_of(client.post("/similar", content=png(number)), 504, "timeout")
        assert client.post("/predict", content=png(9)).status_code == 200
    finally:
        may_end.set()


def test_a_damaged_cache_is_not_the_fault_of_the_request(run_server, dataset, png, monkeypatch):
    def fail(*_):
        raise CacheFormatError("a part is missing")

    monkeypatch.setattr("heads.service.cache_routes._similar", fail)
    client = run_server(cache=dataset.cache).client
    assert error_of(client.post("/similar", content=png(1)), 409, "unusable_cache") == "a part is missing"


def test_bodies_in_progress_are_bounded_together(run_server, raw_connection, wait_for, png):
    server = run_server(queue_mb=1, request_mb=1)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"
    with raw_connection(server.port, head, b"x" * 800_000):
        wait_for(lambda: counted(counts(server.client), "queue_bytes") == 800_000)
        refused = server.client.post("/predict", content=b"x" * 300_000)
        assert "bytes, 1,000,000 are allowed" in error_of(refused, 429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert server.client.post("/predict", content=png(1)).status_code == 200
    wait_for(lambda: counted(counts(server.client), "queue_bytes") == 0)


def test_many_requests_at_once_are_refused_before_they_are_read_while_the_queue_is_full(
    run_server, raw_connection, wait_for, monkeypatch, png, slow_backbone
):
    monkeypatch.setattr("heads.service.server._MORE_AT_ONCE", 1)
    network = slow_backbone()
    server = run_server(backbone=network, batch_size=1, queue_images=1)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"
    with ExitStack() as reading, ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            reading.enter_context(raw_connection(server.port, head, b"x"))
        wait_for(lambda: counted(counts(server.client), "queue_bytes") == 3)
        assert server.client.post("/predict", content=png(1)).status_code == 200  # the queue is empty
        network.is_in_pass.clear()
        network.may_pass.clear()
        accepted = [pool.submit(server.client.post, "/predict", content=png(2))]
        assert network.is_in_pass.wait(60)
        accepted.append(pool.submit(server.client.post, "/predict", content=png(3)))
        wait_for(lambda: counted(counts(server.client), "queue_images") == 1)
        refused = server.client.post("/predict", content=png(4))
        assert "5 requests are in progress" in error_of(refused, 429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert server.client.get("/v2/health/live").status_code == 200
        network.may_pass.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_while_it_arrives(run_server, raw_connection, chunked):
    server = run_server(request_mb=1)
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 5000000"
    parts = [b"POST /predict HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n"]
    if chunked:  # two of the five million bytes that it would send
        parts += [b"%x\r\n" % 100_000 + b"x" * 100_000 + b"\r\n"] * 20
    with raw_connection(server.port, *parts) as connection:
        answer = connection.recv(65536)
        while more := connection.recv(65536):  # until the service closes
            answer += more
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"more than 1,000,000 bytes" in answer


@pytest.mark.parametrize("route", ["/nowhere", "/predict?head=none", "/static/x"])
def test_a_large_body_that_is_refused_unread_still_gets_its_answer(run_server, route):
    client = run_server().client
    for _ in range(3):
        response = client.post(route, content=b"x" * 10_000_000)
        assert response.status_code in {404, 405}
        assert response.headers["connection"] == "close"


def test_a_body_that_does_not_arrive_in_time_is_refused(run_server, raw_connection):
    server = run_server(timeout=1)
    with raw_connection(server.port, b"POST /predict HTTP/1.1\r\nHost: x.localhost\r\n\r\n"):
        pass
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc"
    with raw_connection(server.port, head) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_a_deadline_is_kept_while_a_pass_is_under_way(run_server, png, slow_backbone, wait_for):
    backbone = slow_backbone()
    server = run_server(backbone=backbone, timeout=1)
    backbone.may_pass.clear()
    began = time.monotonic()
    message = error_of(server.client.post("/predict", content=png(1)), 504, "timeout")
    assert 0.9 < time.monotonic() - began < 25
    assert "--timeout" in message
    wait_for(lambda: server.client.get("/v2/health/ready").status_code == 503)  # the pass began after the request
    assert "a pass has been standing still" in server.client.get("/v2/health/ready").json()["faults"][0]
    backbone.may_pass.set()
    server.wait_until_ready()
    assert server.client.post("/predict", content=png(1)).status_code == 200


def test_work_that_its_caller_left_is_not_computed(run_server, png, slow_backbone, wait_for, raw_connection):
    backbone = slow_backbone()
    server = run_server(backbone=backbone)
    backbone.may_pass.clear()
    first = threading.Thread(target=lambda: server.client.post("/predict", content=png(1)))
    first.start()
    assert backbone.is_in_pass.wait(60)
    body = png(2)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with raw_connection(server.port, head, body):
        wait_for(lambda: server.service.batcher.queued == 1)
    wait_for(lambda: server.service.batcher.queued == 0)
    backbone.may_pass.set()
    first.join()
    found = counts(server.client)
    assert counted(found, "abandoned_images_total") == 1
    assert counted(found, "requests_total", route="/predict", status="499") == 1
    assert backbone.passes == [1]


def test_ready_needs_a_head_and_live_does_not(run_server, dataset, tmp_path, png):
    empty = tmp_path / "empty"
    empty.mkdir()
    client = run_server(empty, cache=dataset.cache, ready=False).client
    assert client.get("/v2/health/live").status_code == 200
    ready = client.get("/v2/health/ready")
    assert ready.status_code == 503
    assert "no head is served" in ready.json()["faults"]
    assert "train one, or load one" in error_of(client.post("/predict", content=png(1)), 503, "no_head")
    assert client.get("/").status_code == 200
    shutil.copytree(dataset.heads / "red", empty / "red")
    assert client.post("/v2/repository/models/red/load").json()["state"] == "READY"
    assert client.get("/v2/health/ready").status_code == 200
    assert client.post("/v2/repository/models/red/unload").status_code == 200
    assert client.get("/v2/health/ready").status_code == 503


def test_a_broken_head_leaves_the_old_one_in_place_and_says_so(run_server, dataset, tmp_path, png):
    folder = Path(shutil.copytree(dataset.heads, tmp_path / "heads"))
    client = run_server(folder).client
    before = client.post("/predict", content=png(1)).json()["results"][0]["heads"]
    (folder / "red" / "head.json").write_text("{}")
    message = error_of(client.post("/v2/repository/models/red/load"), 409, "unusable_head")
    assert "head.json" in message
    assert client.post("/predict", content=png(1)).json()["results"][0]["heads"] == before
    states = {state["name"]: state for state in client.post("/v2/repository/index").json()}
    assert states["red"]["state"] == "READY"
    assert "head.json" in states["red"]["reason"]
    shutil.rmtree(folder / "red")
    assert "is gone" in error_of(client.post("/v2/repository/models/red/load"), 409, "unusable_head")
    assert client.post("/predict", content=png(1)).json()["results"][0]["heads"] == before
    assert error_of(client.post("/v2/repository/models/green/load"), 404, "unknown_name")
    assert error_of(client.post("/v2/repository/models/..%2Fheads%2Fblue/load"), 404, "unknown_route")


@pytest.mark.parametrize(
    ("method", "route", "body", "status", "code"),
    [
        ("POST", "/predict", b"", 400, "no_image"),
        ("GET", "/nowhere", b"", 404, "unknown_route"),
        ("DELETE", "/predict", b"", 405, "wrong_method"),
        ("POST", "/predict?top=0", b"x", 422, "bad_parameter"),
        ("POST", "/predict?top=x", b"x", 422, "bad_parameter"),
        ("GET", "/v2/models/none", b"", 404, "unknown_name"),
        ("GET", "/v2/models/red/versions/1", b"", 404, "unknown_name"),
        ("GET", "/v2/models/red/versions/1/ready", b"", 404, "unknown_name"),
        ("POST", "/v2/models/none/infer", b"{}", 404, "unknown_name"),
        ("POST", "/v2/models/red/infer", b"{", 400, "bad_protocol"),
        ("POST", "/v2/models/red/infer", b"{}", 400, "bad_protocol"),
        (
            "POST",
            "/v2/models/red/infer",
            b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,2],"data":[1,2]}]}',
            400,
            "wrong_width",
        ),
        (
            "POST",
            "/v2/models/red/infer",
            b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,16],"data":[%s1e99]}]}' % (b"0," * 15),
            422,
            "not_finite",
        ),
        (
            "POST",
            "/v2/models/red/infer",
            b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,16],"data":[%sNaN]}]}' % (b"0," * 15),
            422,
            "not_finite",
        ),
        (
            "POST",
            "/v2/models/red/infer",
            b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["AAAA"]}]}',
            422,
            "not_an_image",
        ),
        ("POST", "/v2/repository/models/red/load", b'{"parameters":{"config":"{}"}}', 400, "unsupported"),
        ("POST", "/v2/repository/models/none/unload", b"", 404, "unknown_name"),
        ("POST", "/v2/repository/index", b"[]", 400, "bad_protocol"),
        ("GET", "/static/nothing.js", b"", 404, "unknown_name"),
        ("GET", "/static/..%2Fapp.py", b"", 404, "unknown_route"),
    ],
)
def test_bad_input_is_a_clear_error_and_the_next_request_is_right(run_server, png, method, route, body, status, code):
    client = run_server().client
    message = error_of(client.request(method, route, content=body), status, code)
    assert len(message) > 10
    assert client.post("/predict", content=png(1)).status_code == 200


def test_head_is_answered_as_get_without_the_body(run_server, wait_for):
    lines = []
    client = run_server(log=lines.append).client
    for route in ("/", "/v2/health/live", "/heads", "/nowhere"):
        whole, head = client.get(route), client.head(route)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.content))
    wait_for(lambda: sum(json.loads(line)["method"] == "HEAD" for line in lines) == 4)
    error_of(client.get("/predict"), 405, "wrong_method")
    assert client.head("/predict").status_code == 405


def test_a_slash_too_many_is_an_unknown_route_and_leads_nowhere(run_server):
    response = run_server(token=b"a long enough token").client.get(
        "/v2/", headers={"Host": "evil.example", "Authorization": "Bearer a long enough token"}
    )
    error_of(response, 404, "unknown_route")
    assert "location" not in response.headers


def test_a_wrong_content_type_is_refused(run_server, png):
    response = run_server().client.post("/predict", content=png(1), headers={"Content-Type": "application/json"})
    assert "'application/json'" in error_of(response, 415, "wrong_content_type")


def test_a_token_is_needed_for_all_but_the_page_and_live(run_server, png):
    client = run_server(token=b"a long enough token").client
    for route in ("/", "/static/index.html", "/v2/health/live"):
        assert client.get(route).status_code == 200
    for route in ("/heads", "/metrics", "/docs", "/openapi.json", "/v2", "/v2/health/ready", "/nowhere"):
        response = client.get(route)
        error_of(response, 401, "token_missing")
        assert response.headers["www-authenticate"] == "Bearer"
    for wrong in ("Bearer wrong", "Bearer a long enough toke", "Bearer", "Basic a long enough token", "a", "Bearer é"):
        response = client.post("/predict", content=png(1), headers={"Authorization": wrong.encode("latin-1")})
        assert response.status_code == 401, wrong
        assert "a long enough token" not in response.text
    right = client.post("/predict", content=png(1), headers={"Authorization": "bearer a long enough token"})
    assert right.status_code == 200


def test_a_page_of_another_site_and_another_name_of_this_machine_are_refused(run_server, png):
    server = run_server()
    client = server.client
    for host in (f"evil.example:{server.port}", "evil.example", "", "127.0.0.1.evil.example", "[", "[::1"):
        error_of(client.get("/heads", headers={"Host": host}), 403, "foreign_host")
    for host in ("localhost", f"localhost:{server.port}", f"[::1]:{server.port}"):
        assert client.get("/heads", headers={"Host": host}).status_code == 200
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{server.port + 1}"):
        response = client.post("/predict", content=png(1), headers={"Origin": origin})
        error_of(response, 403, "foreign_page")
        assert "access-control-allow-origin" not in response.headers
    assert client.post("/predict", content=png(1), headers={"Origin": server.url}).status_code == 200


def test_every_answer_forbids_foreign_scripts(run_server):
    client = run_server().client
    for route in ("/", "/docs", "/heads", "/nowhere"):
        headers = client.get(route).headers
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    for route in ("/", "/docs"):
        assert not re.search(
            r"(src|href)=.?https?:|<script(?! type=.module. src=.static/)|style=|\son\w+=", client.get(route).text
        )


def test_nothing_of_a_client_gets_into_a_log_line_unescaped(run_server, png):
    lines = []
    client = run_server(log=lines.append).client
    hostile = "evil\r\n\x1b[31m"
    client.post("/predict", files=[("f", (hostile, png(1)))], headers={"X-Request-Id": "my-id.7"})
    for identifier in ("a b", "x" * 65, "é", '"}'):
        response = client.get("/heads", headers={"X-Request-Id": identifier.encode()})
        assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])
    client.get("/nowhere%0a%1b[31m")
    records = [json.loads(line) for line in lines if json.loads(line)["route"] != "/v2/health/ready"]
    assert all(line.isascii() and line.isprintable() for line in lines)
    first = records[0]
    assert (first["request"], first["method"], first["route"]) == ("my-id.7", "POST", "/predict")
    assert (first["status"], first["images"]) == (200, 1)
    assert first["bytes_in"] > 1000
    assert set(first) == {
        "time", "request", "method", "route", "status", "seconds", "bytes_in", "bytes_out", "images",
    }  # fmt: skip
    assert "evil" not in "".join(lines)


def test_an_unexpected_fault_is_no_500_and_is_told(run_server, png, monkeypatch):
    told = []
    server = run_server(notify=told.append)
    monkeypatch.setattr("heads.service.native_routes.predictions", lambda *_, **__: 1 / 0)
    message = error_of(server.client.post("/predict", content=png(1), headers={"X-Request-Id": "seven"}), 503, "failed")
    assert "ZeroDivisionError" in message
    assert re.fullmatch(r"the network has started after \d+ s", told.pop(0))
    assert told == ["request seven failed unexpectedly: ZeroDivisionError: division by zero"]
    monkeypatch.undo()
    assert server.client.post("/predict", content=png(1)).status_code == 200


def test_an_image_that_is_twice_in_a_request_costs_one_pass(run_server, png):
    client = run_server().client
    files = [("f", ("a", png(1))), ("f", ("b", png(2))), ("f", ("c", png(1)))]
    results = client.post("/predict", files=files).json()["results"]
    assert [result["pass"] for result in results] == [True, True, False]
    assert results[0]["heads"] == results[2]["heads"]


def test_the_page_of_routes_names_every_route(run_server):
    client = run_server().client
    document = client.get("/openapi.json").json()
    text = client.get("/docs").text
    assert len(document["paths"]) > 12
    assert all(f"{method.upper()} {path}" in text for path, methods in document["paths"].items() for method in methods)


@pytest.mark.parametrize("exchanges", [12, pytest.param(300, marks=pytest.mark.slow)], ids=["short", "long"])
def test_a_head_is_exchanged_under_load_without_a_failure(run_server, dataset, tmp_path, png, exchanges):
    """Four clients send three images at a time, a hundred times a second, while the head changes again and again."""
    folder = Path(shutil.copytree(dataset.heads, tmp_path / "heads"))
    cache = FeatureCache.open(dataset.cache)
    ready = []
    for seed, family in enumerate(("centroid", "logreg", "naive_bayes")):
        head = heads.train(cache, family, tap="features", holdout=0)
        ready.append((head.save(tmp_path / f"new{seed}"), head))
    server = run_server(folder)
    failures, seen, asked, turn = [], set(), [], 0
    exchanged, is_over = {head.identity for _, head in ready}, threading.Event()

    def ask():
        with httpx.Client(base_url=server.url) as client:
            while not is_over.is_set():
                due = time.monotonic() + 0.04
                response = client.post("/predict?head=red", files=[("f", (str(n), png(n))) for n in range(3)])
                versions = {result["heads"]["red"]["version"] for result in response.json().get("results", ())}
                if response.status_code != 200 or len(versions) != 1:
                    failures.append(response.text)
                seen.update(versions)
                asked.append(1)
                time.sleep(max(0, due - time.monotonic()))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        # counted, not timed: a busy machine takes longer
        while not failures and (turn < exchanges or len(asked) < 3 * exchanges or not exchanged <= seen):
            assert any(asker.is_alive() for asker in askers)
            directory, _ = ready[turn % 3]
            shutil.rmtree(folder / "red")
            shutil.copytree(directory, folder / "red")
            assert server.client.post("/v2/repository/models/red/load").status_code == 200
            turn += 1
            time.sleep(0.03)
    finally:
        is_over.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert exchanged <= seen
