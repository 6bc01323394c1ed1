"""Trainings over HTTP: the same head as on the command line, served when it is whole, watched and cancelled."""

import base64
import hashlib
import io
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import featurecache
import heads
from heads.service.errors import RequestError
from heads.service.training import Jobs, TrainingRequest
from heads.training import Training


def train(service, name, **body):
    answer = service.client.post(f"heads/{name}/train", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def versions(service):
    return {head["name"]: head["version"] for head in service.client.get("heads").json()["heads"]}


def described(directory):
    """Return what a head consists of, but for the seconds of its training."""
    description = json.loads((directory / "head.json").read_text())
    del description["training"]["seconds"], description["sha256"]
    return description, (directory / "head.safetensors").read_bytes()


@pytest.mark.parametrize("family", ["softmax", "centroid", "knn"])
def test_the_head_is_that_of_the_command_line(service, place, tmp_path, finished, family):
    before = versions(service)
    digest = hashlib.sha256(place.image("train/red/0.png").read_bytes()).hexdigest()
    service.client.post("corrections", json={"sha256": digest, "label": "blue"})
    job = finished(service, train(service, "colours", family=family, tap="features"))
    assert job["state"] == "done", job

    labels = featurecache.read_labels(place.folder / "corrections.csv")
    heads.train(place.cache, family, tap="features", labels=labels).save(tmp_path / "own")
    [directory] = (place.folder / "heads").glob("colours-2")
    assert described(directory) == described(tmp_path / "own")
    after = versions(service)
    assert after["colours"] == job["version"] == heads.TrainedHead.load(directory).identity
    assert after["colours"] != before["colours"]
    assert after["nearest"] == before["nearest"]
    assert (job["trained_rows"], job["directory"]) == (24, "colours-2")


def test_a_new_version_answers_and_the_old_one_stays_on_the_disk(service, place, finished):
    image = place.image("valid/red/0.png").read_bytes()

    def answer():
        [result] = service.client.post("predict", content=image, params={"head": "nearest"}).json()["results"]
        return result["heads"]["nearest"]

    first = answer()
    kept = described(place.folder / "heads" / "nearest")
    for number in range(8):
        digest = hashlib.sha256(place.image(f"train/red/{number}.png").read_bytes()).hexdigest()
        service.client.post("corrections", json={"sha256": digest, "label": "crimson"})
    job = finished(service, train(service, "nearest"))
    second = answer()

    assert (first["class"], second["class"]) == ("red", "crimson")
    assert second["version"] == job["version"]
    assert described(place.folder / "heads" / "nearest") == kept
    assert service.client.post("v2/repository/models/nearest/load").json()["version"] == job["version"]
    assert answer()["version"] == job["version"]


def test_the_new_version_is_the_head_after_a_restart(service, serve, place, finished):
    before = versions(service)
    finished(service, train(service, "nearest"))
    job = finished(service, train(service, "nearest", family="logreg"))
    states = service.client.post("v2/repository/index").json()
    assert [state["name"] for state in states] == ["colours", "nearest"]
    again = serve(place.folder / "heads", cache=place.folder / "c.h5")
    assert versions(again) == versions(service) == before | {"nearest": job["version"]}
    assert json.loads((place.folder / "heads" / "versions.json").read_text()) == {"nearest": ["nearest-2", "nearest-3"]}


def test_a_corrected_image_that_the_cache_lacks_trains_too(service, place, finished, tmp_path):
    data = (place.folder / "new-red.png").read_bytes()
    service.client.post("corrections", content=data, params={"label": "crimson"})
    job = finished(service, train(service, "colours", family="centroid"))
    [result] = service.client.post("predict", content=data).json()["results"]

    assert (job["state"], job["trained_rows"]) == ("done", 25)
    assert set(result["heads"]["colours"]["probabilities"]) == {"blue", "crimson", "green", "red"}
    assert result["heads"]["colours"]["class"] == "crimson"
    assert "unmatched_labels" not in [warning["code"] for warning in job["warnings"]]

    without = finished(service, train(service, "colours", family="centroid", corrections=False))
    assert without["trained_rows"] == 24


def test_a_stored_image_that_is_not_known_any_more_passes_again(serve, place, finished):
    data = (place.folder / "new-red.png").read_bytes()
    service = serve(place.folder / "heads", cache=place.folder / "c.h5")
    service.client.post("corrections", content=data, params={"label": "crimson"})
    again = serve(place.folder / "heads", cache=place.folder / "c.h5")
    job = finished(again, train(again, "colours", family="centroid"))
    assert (job["state"], job["trained_rows"]) == ("done", 25)
    assert 'images_total{found="network"} 1.0' in again.client.get("metrics").text


def test_corrections_of_no_image_are_counted(service, place, finished):
    (place.folder / "corrections.csv").write_text("path,label\nno/such.png,red\n")
    job = finished(service, train(service, "colours", family="centroid"))
    [warning] = [warning for warning in job["warnings"] if warning["code"] == "unmatched_labels"]
    assert "1 of 1 given labels" in warning["message"]


def test_the_first_head_is_trained_where_there_was_none(serve, place, finished):
    service = serve(place.folder / "none", cache=place.folder / "c.h5", ready=False)
    data = place.image("valid/blue/0.png").read_bytes()
    assert service.client.get("v2/health/ready").status_code == 503
    assert service.client.post("predict", content=data).json()["error"]["code"] == "no_head"
    job = finished(service, train(service, "first", family="centroid"))
    assert job["state"] == "done", job
    service.wait_until_ready()
    [result] = service.client.post("predict", content=data).json()["results"]
    assert result["heads"]["first"]["class"] == "blue"
    assert versions(serve(place.folder / "none")) == versions(service)


def test_without_a_folder_of_heads_they_lie_beside_the_cache(serve, place, finished):
    named = place.folder / "heads" / "nearest"
    service = serve(named, cache=place.folder / "c.h5")
    job = finished(service, train(service, "nearest"))
    assert [path.name for path in (place.folder / "c.h5.heads").glob("*/")] == ["nearest-2"]
    assert versions(serve(named, cache=place.folder / "c.h5")) == {"nearest": job["version"]}


def test_a_training_waits_for_room_in_the_queue(serve, place, finished, slow_backbone, seeing, wait_for, png):
    backbone = slow_backbone(widths=dict(seeing.taps))
    backbone.spec = seeing
    options = {"cache": place.folder / "c.h5", "backbone": backbone, "content_cache_mb": 0, "queue_images": 1}
    service = serve(place.folder / "heads", **options)
    data = (place.folder / "new-red.png").read_bytes()
    assert service.client.post("corrections", content=data, params={"label": "crimson"}).status_code == 200
    backbone.may_pass.clear()
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(service.client.post, "predict", content=png(1))]
        assert backbone.is_in_pass.wait(60)
        held.append(pool.submit(service.client.post, "predict", content=png(2)))
        wait_for(lambda: service.service.batcher.queued == 1)
        job = train(service, "colours", family="centroid")
        cancelled = train(service, "nearest", family="centroid")
        time.sleep(0.2)
        assert service.client.get(f"jobs/{job['job']}").json()["state"] == "running"
        assert service.client.delete(f"jobs/{cancelled['job']}").json()["state"] == "cancelled"
        backbone.may_pass.set()
        assert [one.result(60).status_code for one in held] == [200, 200]
    job = finished(service, job)
    assert (job["state"], job["trained_rows"]) == ("done", 25), job


def test_nobody_waits_while_a_head_is_published(service, finished, monkeypatch):
    is_saving, may_save = threading.Event(), threading.Event()
    save = heads.TrainedHead.save

    def slowly(head, path):
        is_saving.set()
        assert may_save.wait(100)
        return save(head, path)

    monkeypatch.setattr(heads.TrainedHead, "save", slowly)
    job = train(service, "nearest")
    assert is_saving.wait(60)
    try:
        asked = [service.client.get(f"jobs/{job['job']}", timeout=20), service.client.get("heads", timeout=20)]
        assert [answer.status_code for answer in asked] == [200, 200]
        assert service.client.delete(f"jobs/{job['job']}", timeout=20).json()["state"] == "running"  # too late
    finally:
        may_save.set()
    assert finished(service, job)["state"] == "done"


def test_rows_that_were_sent_are_forgotten_when_the_training_ends(make_service, dataset, tmp_path, wait_for):
    jobs = Jobs(make_service(shutil.copytree(dataset.heads, tmp_path / "heads")), None)
    rows, labels = np.eye(16, dtype=np.float32)[:4], ["a", "b", "a", "b"]
    job = jobs.submit("eye", TrainingRequest(Training.asked("centroid"), "features", rows=rows, labels=labels))
    wait_for(lambda: job.to_dict()["state"] not in {"waiting", "running"})
    jobs.close()
    assert job.request.rows is job.request.labels is None


def test_rows_of_waiting_trainings_are_bounded_together(make_service, dataset, tmp_path, monkeypatch):
    may_end = threading.Event()

    def held(*_):
        may_end.wait(60)
        raise TimeoutError

    monkeypatch.setattr(Jobs, "_trained", held)
    jobs = Jobs(make_service(shutil.copytree(dataset.heads, tmp_path / "heads"), queue_mb=1), None)
    rows = np.zeros((4, 60_000), np.float32)  # 960,000 bytes
    training = Training.asked("centroid")
    try:
        jobs.submit("eye", TrainingRequest(training, "features", rows=rows, labels=[*"abab"]))
        with pytest.raises(RequestError, match="as many rows as --queue-mb allows") as refusal:
            jobs.submit("eye", TrainingRequest(training, "features", rows=rows, labels=[*"abab"]))
        assert refusal.value.status == 429
        jobs.submit("eye", TrainingRequest(training, "features", rows=rows[:, :100], labels=[*"abab"]))
    finally:
        may_end.set()
        jobs.close()


@pytest.mark.parametrize("encoded", [False, True])
def test_rows_and_labels_in_the_body(service, place, finished, encoded):
    features = place.cache.features("features", "train")
    labels = ["warm" if features.classes[index] == "red" else "cold" for index in features.y]
    rows = features.X.tolist()
    if encoded:
        out = io.BytesIO()
        np.save(out, features.X)
        rows = base64.b64encode(out.getvalue()).decode()
    job = finished(
        service, train(service, "warmth", family="centroid", tap="features", rows=rows, labels=labels, holdout=0)
    )
    [result] = service.client.post("predict", content=place.image("valid/red/1.png").read_bytes()).json()["results"]

    assert (job["state"], job["trained_rows"]) == ("done", 24), job
    assert result["heads"]["warmth"]["class"] == "warm"
    assert heads.TrainedHead.load(place.folder / "heads" / "warmth").classes == ("cold", "warm")


def test_an_epoch_is_reported_and_a_training_is_cancelled(service, finished):
    body = {"family": "softmax", "parameters": {"epochs": 100_000, "patience": 0}}
    job = train(service, "colours", **body)
    second = train(service, "nearest", family="centroid")
    before, seen = versions(service), set()
    until = time.monotonic() + 60
    while len(seen) < 3 and time.monotonic() < until:
        found = service.client.get(f"jobs/{job['job']}").json()
        seen.add(found["epoch"] and found["epoch"]["epoch"])
    assert len(seen) >= 3
    assert found["epochs"] == 100_000
    assert service.client.get(f"jobs/{second['job']}").json()["state"] == "waiting"

    cancelled = service.client.delete(f"jobs/{job['job']}").json()
    assert cancelled["state"] == "cancelled"
    assert finished(service, second)["state"] == "done"
    assert versions(service)["colours"] == before["colours"]
    states = {item["job"]: item["state"] for item in service.client.get("jobs").json()["jobs"]}
    assert states == {job["job"]: "cancelled", second["job"]: "done"}


def test_a_training_without_epochs_that_was_cancelled_is_not_published(service, place, finished, monkeypatch):
    is_cancelled, on = threading.Event(), Training.on

    def on_until_cancelled(training, *arguments, **options):
        head = on(training, *arguments, **options)
        assert training.spec.name != "svm" or is_cancelled.wait(60)
        return head

    monkeypatch.setattr(Training, "on", on_until_cancelled)
    rows, labels = np.random.default_rng(0).standard_normal((60, 16)).tolist(), [*"abcd"] * 15
    before = versions(service)
    job = train(service, "colours", family="svm", tap="features", rows=rows, labels=labels)
    while service.client.get(f"jobs/{job['job']}").json()["state"] == "waiting":
        time.sleep(0.005)
    assert service.client.delete(f"jobs/{job['job']}").json()["state"] == "cancelled"
    is_cancelled.set()
    assert finished(service, train(service, "nearest", family="centroid"))["state"] == "done"
    assert service.client.get(f"jobs/{job['job']}").json()["state"] == "cancelled"
    assert versions(service)["colours"] == before["colours"]
    assert not (place.folder / "heads" / "colours-2").exists()


@pytest.mark.parametrize(
    ("name", "body", "status", "words"),
    [
        ("colours", {"family": "nope"}, 404, "unknown head 'nope'"),
        ("colours", {"parameters": {"nope": 1}}, 422, "nope"),
        ("colours", {"seed": -1}, 422, "seed"),
        ("colours", {"holdout": 2}, 422, "holdout"),
        ("colours", {"nope": 1}, 422, "nope"),
        ("colours", {"tap": "features", "rows": [[1.0] * 16, [1.0]], "labels": ["a"]}, 422, "lists of numbers"),
        ("colours", {"tap": "features", "rows": [[1e39] * 16] * 2, "labels": ["a", "b"]}, 422, "not finite"),
        ("colours", {"tap": "features", "rows": "bm8=", "labels": ["a"]}, 422, "npy file"),
        ("colours", {"tap": "features", "rows": "?", "labels": ["a"]}, 422, "npy file"),
        ("a%20b", {}, 422, "letters, digits"),
        ("..", {}, 404, "no such route"),
        ("%2e%2e%2fx", {}, 404, "no such route"),
        (".hidden", {}, 422, "letters, digits"),
        ("versions.json", {}, 422, "and is not versions.json"),
        ("x" * 65, {}, 422, "letters, digits"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(service, place, name, body, status, words):
    before = sorted(place.folder.rglob("*"))
    answer = service.client.post(f"heads/{name}/train", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert sorted(place.folder.rglob("*")) == before
    assert service.client.get("jobs").json() == {"jobs": []}


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"tap": "nope"}, "unknown_name", "unknown tap 'nope'"),
        ({"tap": "features", "rows": [[1.0]], "labels": ["a"]}, "mismatch", "the tap features has 16"),
        ({"tap": "features", "rows": [[1.0] * 16], "labels": []}, "bad_rows", "1 rows and 0 labels"),
        ({"tap": "features", "rows": [[1.0] * 16] * 2, "labels": ["a", "a"]}, "bad_rows", "at least two classes"),
    ],
)
def test_a_training_that_fails_says_why_and_changes_nothing(service, place, finished, body, code, words):
    before = versions(service)
    job = finished(service, train(service, "colours", **body))
    assert (job["state"], job["error"]["code"]) == ("failed", code)
    assert words in job["error"]["message"]
    assert versions(service) == before
    assert sorted(path.name for path in (place.folder / "heads").iterdir()) == ["colours", "nearest"]
    assert finished(service, train(service, "colours", family="centroid"))["state"] == "done"


def test_an_unknown_training_is_said(service):
    for answer in (service.client.get("jobs/nope"), service.client.delete("jobs/nope")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_job")


def test_too_many_trainings_are_refused_for_a_while(service):
    body = {"family": "softmax", "parameters": {"epochs": 100_000, "patience": 0}}
    answers = [service.client.post("heads/colours/train", json=body) for _ in range(20)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:16] == [202] * 16
    assert statuses[-1] == 429
    assert answers[-1].headers["retry-after"] == "10"


def test_a_service_that_ends_does_not_wait_for_a_training(service):
    train(service, "colours", family="softmax", parameters={"epochs": 100_000, "patience": 0})
    began = time.monotonic()
    service.server.end()
    service.thread.join(60)
    assert time.monotonic() - began < 30


def test_a_client_cannot_have_a_module_imported(service, tmp_path, monkeypatch):
    (tmp_path / "unasked.py").write_text("raise SystemExit('imported')", "utf-8")
    monkeypatch.chdir(tmp_path)
    answer = service.client.post("heads/colours/train", json={"family": "keras:unasked:build"})
    assert answer.status_code == 422
    assert "code of your own, which a service does not run" in answer.json()["error"]["message"]
