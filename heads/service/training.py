"""Trainings in the background: one at a time, each watched and cancelled by its id, its head published and served."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import secrets
import time
from collections import deque
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from featurecache.errors import FeatureCacheError, OutputError
from featurecache.feature_set import FeatureSet
from featurecache.images.classes import ordered
from featurecache.images.splits import SPLITS
from featurecache.provenance import Provenance
from featurecache.storage.platform import name_fault
from featurecache.storage.publish import make_directory
from heads.catalog import head_spec
from heads.errors import HeadError, MismatchError, ParameterError, TrainingError
from heads.notices import to_dicts
from heads.service.answering import ImageFeatures, ImageFile, PendingImages
from heads.service.assembly import MEGABYTE
from heads.service.batching import OverloadedError
from heads.service.errors import RequestError, as_request_error
from heads.service.models import VERSIONS, ServedHead, add_version
from heads.splits import TRAIN
from heads.training import DEFAULT_HEAD, Training, feature_tap, unmatched_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from heads.artifact import TrainedHead
    from heads.epochs import Epoch
    from heads.service.assembly import Service
    from heads.service.batching import Work
    from heads.service.corrections import Corrections

State: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]

HEAD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_WAITING = 16
_PAUSE_SECONDS = 0.1  # until the queue is looked at again
_PUBLISH_SECONDS = 5.0  # until a head that is being published is
_KEPT = 256  # jobs that have ended and can still be asked for


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What a client asks to train.

    Parameters
    ----------
    training
        The family with its parameters, seed and holdout.
    tap
        The tap; that of the served head, or the last below the network's outputs, if None.
    corrections
        Whether corrected labels, and corrected images that are not in the cache, are used.
    rows
        Rows to train on instead of the cache, shape (n, d).
    labels
        The name of the class of each of these rows, None for no label.
    """

    training: Training
    tap: str | None = None
    corrections: bool = True
    rows: NDArray[np.float32] | None = None
    labels: Sequence[str | None] | None = None


def default_tap(service: Service) -> str:
    """Return the tap of the first head, or the last one of the cache below the network's own outputs."""
    taps = {served.head.tap: None for served in service.heads.snapshot().values()}
    cache = service.cache
    if cache is None:
        return next(iter(taps), next(iter(service.recipe.taps)))
    known = [tap for tap in taps if tap in cache.taps]
    return known[0] if known else cache.require_tap(feature_tap(cache, head_spec(DEFAULT_HEAD), None))


class _CancelledError(Exception):
    """Ends a training between two epochs."""


@dataclass(eq=False, slots=True)
class Job:
    """A training, from its request to its end.

    Parameters
    ----------
    id
        Its id.
    head
        The name under which the head is served.
    request
        What is trained.
    state
        How far it is.
    is_whole
        Whether the head is trained and being published: then it is too late to cancel.
    epoch
        The record of the latest epoch; None for families without epochs.
    served
        The trained head when it is served, with its directory in ``directory``.
    error
        Why it failed.
    """

    id: str
    head: str
    request: TrainingRequest
    state: State = "waiting"
    is_whole: bool = False
    epoch: Epoch | None = None
    served: ServedHead | None = None
    directory: Path | None = None
    error: RequestError | None = None
    began: float | None = None
    ended: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything for the client, ready for JSON."""
        state, epoch = self.state, self.epoch  # the state first: it changes last
        served, record = self.served, self.served and self.served.head.training
        return {
            "job": self.id,
            "head": self.head,
            "state": state,
            "seconds": 0.0 if self.began is None else round((self.ended or time.monotonic()) - self.began, 3),
            "epoch": epoch
            and {name: getattr(epoch, name) for name in ("epoch", "loss", "accuracy", "valid_loss", "valid_accuracy")},
            "epochs": self.request.training.values.get("epochs"),
            "version": served and served.version,
            "family": served and served.head.name,
            "tap": served and served.head.tap,
            "directory": self.directory and self.directory.name,
            "trained_rows": record and record.n_train,
            "valid_rows": record and record.n_valid,
            "train_accuracy": record and record.train_accuracy,
            "valid_accuracy": record and record.valid_accuracy,
            "warnings": to_dicts(record.warnings) if record else [],
            "error": self.error and {"code": self.error.code, "message": str(self.error)},
        }

    def end(self, state: State) -> None:
        """Enter a last state, and forget the rows that were sent."""
        self.request = replace(self.request, rows=None, labels=None)
        self.ended, self.state = time.monotonic(), state


def _size_of(job: Job) -> int:
    """Return the bytes of the rows that a training holds until it ends."""
    return 0 if job.request.rows is None else job.request.rows.nbytes


class Jobs:
    """The trainings of a service.

    Parameters
    ----------
    service
        The service, which gets the heads.
    corrections
        The corrections beside its cache; None without a cache.
    """

    def __init__(self, service: Service, corrections: Corrections | None) -> None:
        self._service, self._corrections = service, corrections
        self._changed = Condition()
        self._waiting: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._closing = False
        self._thread: Thread | None = None

    def submit(self, head: str, request: TrainingRequest) -> Job:
        """Queue a training.

        Raises
        ------
        RequestError
            If the head's name is not possible, or too many trainings wait.
        """
        if not HEAD_NAME.fullmatch(head) or head == VERSIONS or name_fault(head):
            raise RequestError(
                422,
                "bad_name",
                f"the name of a head has 1 to 64 letters, digits, dots, dashes and underscores, and is not {VERSIONS}, "
                "nor one that Windows cannot hold, such as con, or with a dot at the end",
            )
        job = Job(secrets.token_hex(8), head, request)
        with self._changed:
            if self._closing:
                raise RequestError(503, "not_serving", "the service is ending")
            held = sum(_size_of(other) for other in self._jobs.values())
            if held and held + _size_of(job) > self._service.options.queue_mb * MEGABYTE:
                message = "trainings in progress hold as many rows as --queue-mb allows; ask again later"
                raise RequestError(429, "overloaded", message, {"Retry-After": "10"})
            if len(self._waiting) >= _MOST_WAITING:
                message = f"{len(self._waiting)} trainings are waiting, which is the limit; ask again later"
                raise RequestError(429, "overloaded", message, {"Retry-After": "10"})
            self._waiting.append(job)
            self._jobs[job.id] = job
            ended = [old for old in self._jobs.values() if old.ended is not None]
            for old in ended[: max(0, len(ended) - _KEPT)]:
                del self._jobs[old.id]
            if self._thread is None:
                self._thread = Thread(target=self._run, name="training", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def all(self) -> list[Job]:
        """Return all trainings that are remembered, the oldest first."""
        with self._changed:
            return list(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """Return a training; raise `RequestError` if it is not known."""
        with self._changed:
            if job_id not in self._jobs:
                raise RequestError(404, "unknown_job", "there is no such training; GET /jobs lists them")
            return self._jobs[job_id]

    def cancel(self, job_id: str) -> Job:
        """Cancel a training; its head will not be published, unless that has begun."""
        job = self.get(job_id)
        with self._changed:
            if job.state in {"waiting", "running"} and not job.is_whole:
                job.end("cancelled")
                if job in self._waiting:
                    self._waiting.remove(job)
                self._changed.notify_all()
        return job

    def close(self) -> None:
        """Cancel what has not ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for job in self.all():
            self.cancel(job.id)
        if self._thread is not None and any(job.is_whole and job.ended is None for job in self.all()):
            self._thread.join(_PUBLISH_SECONDS)

    def _run(self) -> None:
        """Work on the trainings, one after the other, in a thread."""
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                job = self._waiting.popleft()
                job.state, job.began = "running", time.monotonic()
            self._train(job)

    def _train(self, job: Job) -> None:
        error: RequestError | None = None
        try:
            trained = self._trained(job)
            with self._changed:
                if job.state == "cancelled":
                    return
                job.is_whole = True
            job.directory = self._publish(job.head, trained)
            job.served = ServedHead.load(job.head, job.directory)
            self._service.heads.put(job.served)
            job.end("done")
        except _CancelledError:
            return
        except (FeatureCacheError, TimeoutError) as e:
            error = as_request_error(e)
        except Exception as e:  # noqa: BLE001 - whatever it is, who watches the job must hear of it
            error = RequestError(500, "failed", f"the training failed: {type(e).__name__}: {e}")
        if error is not None:
            with self._changed:
                if job.state == "running":
                    job.error = error
                    job.end("failed")

    def _trained(self, job: Job) -> TrainedHead:
        request = job.request
        tap = self._tap(job.head, request)

        def note(epoch: Epoch) -> None:
            job.epoch = epoch
            if job.state == "cancelled":
                raise _CancelledError

        labels: Mapping[str, str | None] = {}
        if request.rows is not None:
            features = self._given_rows(request.rows, request.labels or (), tap)
        else:
            features, labels = self._cached_rows(job, tap)
        return request.training.on(
            features,
            made_by=self._made_by(),
            notices=unmatched_labels(features, labels),
            on_epoch=note,
        )

    def _tap(self, head: str, request: TrainingRequest) -> str:
        """Return the tap to train on: the requested one, that of the served head, or the last below the outputs."""
        served, spec = self._service.heads.snapshot().get(head), request.training.spec
        wanted = request.tap or (served.head.tap if served and served.head.name == spec.name else None)
        if request.rows is not None and wanted is not None:
            if wanted not in self._service.recipe.taps:
                raise ParameterError(f"tap {wanted!r} is not served; served are {', '.join(self._service.recipe.taps)}")
            return wanted
        if self._service.cache is None:
            raise HeadError("there is no cache; send rows and labels with their tap, or start with --cache CACHE.h5")
        return self._service.cache.require_tap(feature_tap(self._service.cache, spec, wanted))

    def _made_by(self) -> Provenance:
        """Return what made the features: the record of the cache, or what the served heads know."""
        if self._service.cache is not None:
            return self._service.cache.made_by
        served = next(iter(self._service.heads.snapshot().values()), None)
        return Provenance() if served is None else Provenance(weights_source=served.head.weights_source)

    def _cached_rows(self, job: Job, tap: str) -> tuple[FeatureSet, Mapping[str, str | None]]:
        """Return all rows of the cache with corrected labels, the corrected images that it lacks, and the labels."""
        cache, corrections = self._service.cache, self._corrections
        if cache is None or corrections is None:
            raise HeadError("there is no cache; send rows and labels, or start the service with --cache CACHE.h5")
        labels = corrections.labels() if job.request.corrections else {}
        features = cache.with_labels(labels).features(tap) if labels else cache.features(tap)
        others = sorted(labels.keys() - set(features.paths.tolist()))
        return with_images(features, self._features(job, corrections, others), labels), labels

    def _features(self, job: Job, corrections: Corrections, paths: Sequence[str]) -> dict[str, ImageFeatures]:
        """Return the features of stored images by path; those that are not known pass through the network."""
        batcher = self._service.batcher
        at_once = min(batcher.batch_size, batcher.room.largest)
        found: dict[str, ImageFeatures] = {}
        for start in range(0, len(paths), at_once):
            read = {path: corrections.stored(path) for path in paths[start : start + at_once]}
            files = {path: ImageFile(data, path) for path, data in read.items() if data is not None}
            images = PendingImages([*files.values()], self._service.content, batcher)
            images.look_further()
            try:
                work = self._submitted(job, images)
                _, unfinished = wait([item.future for item in work], self._service.options.timeout)
                if unfinished:
                    raise TimeoutError
            finally:
                images.leave()
            results = zip(files, images.results(), strict=True)
            found |= {path: result for path, result in results if isinstance(result, ImageFeatures)}
        return found

    def _submitted(self, job: Job, images: PendingImages) -> list[Work]:
        """Queue images as soon as nobody else waits: requests of clients come first."""
        while True:
            if images.is_known or not self._service.batcher.queued:
                with suppress(OverloadedError):  # others were faster
                    return images.submit()
            with self._changed:
                if self._changed.wait_for(lambda: job.state == "cancelled", _PAUSE_SECONDS):
                    raise _CancelledError

    def _given_rows(self, X: NDArray[np.float32], labels: Sequence[str | None], tap: str) -> FeatureSet:
        """Return the rows of a request as a feature set, in no split."""
        width = self._service.recipe.taps[tap]
        if X.shape[1] != width:
            raise MismatchError(f"the rows have {X.shape[1]} features, the tap {tap} has {width}")
        if len(labels) != len(X):
            raise TrainingError(f"there are {len(X)} rows and {len(labels)} labels; send one label per row")
        classes = tuple(sorted({label for label in labels if label is not None}))
        return FeatureSet(
            X=X,
            y=np.array([-1 if label is None else classes.index(label) for label in labels], np.int64),
            paths=np.array([f"row {row}" for row in range(len(X))], dtype=object),
            splits=np.full(len(X), "", dtype=object),
            sha256=np.array([hashlib.sha256(row.tobytes()).hexdigest() for row in X], dtype=object),
            classes=classes,
            split=None,
            tap=tap,
            recipe=self._service.recipe,
        )

    def _publish(self, head: str, trained: TrainedHead) -> Path:
        """Store a head under the first free name in the folder of heads."""
        folder = self._service.head_folder
        if folder is None:
            raise HeadError("there is no place for a trained head; start the service with --cache or a folder of heads")
        make_directory(folder)
        taken = self._service.heads.directories.find()
        number = 1
        while True:
            name = head if number == 1 else f"{head}-{number}"
            number += 1
            if name in taken or (folder / name).exists():
                continue
            try:
                directory = trained.save(folder / name)
            except OutputError:
                if not (folder / name).exists():
                    raise
                continue
            if name != head:
                add_version(folder, head, name)
            return directory


def with_images(
    features: FeatureSet, images: Mapping[str, ImageFeatures], labels: Mapping[str, str | None]
) -> FeatureSet:
    """Return rows together with those of further images, in the order of a cache; without images the rows themselves.

    Parameters
    ----------
    features
        All rows of a cache.
    images
        Features of other images by path; the folder ``train`` in a path stands for the split.
    labels
        The names of their classes by path.
    """
    if not images:
        return features
    paths = sorted(images)
    names = [labels[path] for path in paths]
    classes = ordered({*features.classes, *(name for name in names if name is not None)}, None, features.classes)
    numbers = np.array([*(classes.index(name) for name in features.classes), -1], np.int64)
    y = np.array([-1 if name is None else classes.index(name) for name in names], np.int64)
    splits = [TRAIN if path.startswith(f"{TRAIN}/") else "" for path in paths]
    joined = replace(
        features,
        X=np.concatenate([features.X, np.stack([images[path].rows[features.tap] for path in paths])], dtype=np.float32),
        y=np.concatenate([numbers[features.y], y]),
        paths=np.concatenate([features.paths, np.array(paths, dtype=object)]),
        splits=np.concatenate([features.splits, np.array(splits, dtype=object)]),
        sha256=np.concatenate([features.sha256, np.array([images[path].sha256 for path in paths], dtype=object)]),
        classes=classes,
    )
    order = sorted(range(len(joined)), key=lambda row: (SPLITS.index(joined.splits[row]), joined.paths[row]))
    return joined.take(np.array(order))


def matrix_of(rows: Sequence[Sequence[float]] | str) -> NDArray[np.float32]:
    """Return lists of numbers, or an npy file in Base64, as an array (n, d); raise `TrainingError` if they are none."""
    try:
        if isinstance(rows, str):
            X = np.load(io.BytesIO(base64.b64decode(rows, validate=True)), allow_pickle=False)
        else:
            X = np.array(rows, dtype=np.float64)
        with np.errstate(over="ignore"):
            X = np.ascontiguousarray(X, dtype=np.float32)
    except (ValueError, TypeError, EOFError, OSError, binascii.Error) as e:
        raise TrainingError("the rows are neither lists of numbers of one length, nor an npy file in Base64") from e
    if X.ndim != 2 or not X.size:  # noqa: PLR2004
        raise TrainingError(f"the rows have shape {X.shape}; expected (n, d), at least one row")
    if not np.isfinite(X).all():
        row = int(np.argmin(np.isfinite(X).all(axis=1)))
        raise TrainingError(f"row {row} holds features that are not finite in float32; leave it out", row)
    return X
