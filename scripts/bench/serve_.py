"""The head service under load over loopback, in normal use and overload, and beside other services."""

import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import heads
from featurecache.backbones.catalog import find_network
from featurecache.backbones.weights import resolve_weights
from featurecache.extraction import extract
from featurecache.images.decode import DecodeRules, decode
from featurecache.named_backbone import source_of
from heads.exporting.keras_model import assemble
from scripts.bench.images import write_photographs
from scripts.bench.load import Order, ask
from scripts.bench.services import BY_HAND, RIVALS, Service, featurecache, start_rival
from scripts.bench.wide import WIDTH, write_cache

TAPS = {"mobilenet_v2": "avg_pool", "vgg16": "fc2"}
WEIGHTS, PHOTOGRAPHS, EXTRACTED, HEADS = "random:0", 64, 128, 50
ONE_HEAD, ALL_HEADS = "/predict?head=h00", "/predict"
ROWS, CLASSES, FAMILIES = 1_000, 10, ("softmax", "logreg")  # of the training
OVERLOAD = 10  # times what it can take
_PASSES = 4  # of all clients' images, at least, in a measurement
NOT_SEEN = 1 << 16  # photographs with these numbers are not in any folder

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Parameters
    ----------
    networks
        The networks; comparisons, overload and all other services are measured with the first one, training with VGG16.
    clients
        Numbers of clients.
    seconds, overload_seconds
        Of one measurement, and of the overload.
    rounds
        Of comparisons, and of trainings.
    rivals
        The other services, of `RIVALS`.
    """

    networks: tuple[str, ...] = ("mobilenet_v2", "vgg16")
    clients: tuple[int, ...] = (1, 8, 32, 128)
    seconds: float = 3.0
    overload_seconds: float = 60.0
    rounds: int = 3
    rivals: tuple[str, ...] = tuple(RIVALS)


QUICK = Plan(networks=("mobilenet_v2",), clients=(1, 32), seconds=2.0, overload_seconds=4.0, rounds=1)


def run(plan: Plan = Plan()) -> dict[str, Any]:
    """Return what the service does, with the bars of what is promised."""
    found: dict[str, Any] = {"load_average": round(os.getloadavg()[1], 1)}
    tables: dict[str, list[Row]] = {"rates": [], "overload": [], "training": [], "other_services": []}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_photographs(folder / "images", PHOTOGRAPHS)
        write_photographs(folder / "many", EXTRACTED)
        for network in plan.networks:
            lab = Lab(plan, folder, network)
            with lab.start() as service:
                rates = list(_rates(lab, service))
                found |= _shares(lab, service)
                if network == plan.networks[0]:
                    found |= _fifty_heads(lab, service) | _never_repeated(lab, service) | _seen(lab, service)
                    tables["overload"] += _overload(lab, service, found[f"{network}_32_clients_images_per_s"])
            if network == "vgg16":
                tables["training"] += _training(lab)
            others = list(_others(lab))
            found |= over_by_hand(network, rates, others)
            tables["rates"] += rates
            tables["other_services"] += others
    return found | _overload_share(tables["overload"]) | tables


class Lab:
    """A network that is started in this process, with heads of it, and the photographs that are asked for.

    Parameters
    ----------
    plan
        How much is measured.
    folder
        Where the photographs are, and where it may write.
    network
        The network's name.
    """

    def __init__(self, plan: Plan, folder: Path, network: str) -> None:
        self.plan, self.folder, self.network = plan, folder / network, network
        (self.folder / "heads").mkdir(parents=True)
        self.photographs = folder / "images"
        source = source_of(network, WEIGHTS, device="cpu")
        self.backbone = source.start(source.batch_size, 0)
        cache = extract(self.photographs, self.folder / "cache.h5", backbone=self.backbone)
        self._head = heads.train(cache, "logreg", tap=TAPS[network], holdout=0)
        for number in range(HEADS):
            self._head.save(self.folder / "heads" / f"h{number:02}")
        rules = DecodeRules(self.backbone.spec.input_size)
        files = sorted((folder / "many").rglob("*.jpg"))[: 2 * source.batch_size]
        self._pixels = np.stack([_pixels(path.read_bytes(), rules) for path in files])
        self._many = folder / "many"
        self._next = NOT_SEEN
        self._rate = self.forward()

    def start(self, *options: str | Path) -> Service:
        """Start this project's service."""
        return featurecache(self.folder / "heads", *options)

    def model(self) -> Path:
        """Return a Keras model of the network and its head."""
        path, row = self.folder / "model.keras", find_network(self.network)
        if not path.exists():
            assemble(self._head, row, resolve_weights(WEIGHTS, row)).save(path)
        return path

    def forward(self) -> float:
        """Return the images per second of the network alone, from decoded pixels, as `extract` uses it."""
        return self._images_per_second(lambda: self.backbone.forward(self._pixels), len(self._pixels))

    def extract(self) -> float:
        """Return the images per second of an extraction from files to a finished cache."""
        cache = self.folder / "again.h5"

        def again() -> None:
            extract(self._many, cache, backbone=self.backbone)
            cache.unlink()

        return self._images_per_second(again, EXTRACTED)

    def ask(self, service: Service, images: str = "unseen", **how: Any) -> Row:
        """Ask for images that nobody has seen, or for ``"seen"`` ones; see `scripts.bench.load.Order`.

        Where no answer came within the time, ask for twice as long: the rate of such a time says nothing.

        Raises
        ------
        RuntimeError
            If a request fails, unless there is a rate: then there may be more of them than connections.
        """
        first = self._next if images == "unseen" else None
        seconds = how.pop("seconds", self.plan.seconds)
        if images == "unseen" and not how.get("rate"):  # a slow network needs longer for a full pass
            seconds = max(seconds, _PASSES * how.get("clients", 1) / self._rate)
        order = Order(service.port, how.pop("path", ONE_HEAD), str(self.photographs), seconds, first=first, **how)
        measured = ask(order if order.rate else replace(order, warm_seconds=order.seconds / 5))
        self._next += measured["asked"]
        print(f"{self.network}: {images} images, {order.clients} clients: {_shown(measured)}", file=sys.stderr)
        if measured["failed"] and not order.rate:
            raise RuntimeError(f"{measured['failed']} requests of {order} failed")
        if measured["answered"] and not measured["rate"]:  # too short for a busy machine
            again = self.ask(service, images, seconds=2 * seconds, path=order.path, **how)
            return again | {"answered": measured["answered"] + again["answered"]}
        return measured

    def _images_per_second(self, work: Callable[[], object], images: int) -> float:
        rates: list[float] = []
        end = time.perf_counter() + self.plan.seconds
        while not rates or time.perf_counter() < end:
            began = time.perf_counter()
            work()
            rates.append(images / (time.perf_counter() - began))
        return statistics.median(rates)


def _pixels(data: bytes, rules: DecodeRules) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = decode(data, rules)
    if not isinstance(pixels, np.ndarray):
        raise TypeError(f"a photograph cannot be decoded: {pixels}")
    return pixels


def _show(lab: Lab, service: Service) -> None:
    """Ask for every photograph once, so that all are seen."""
    for path in lab.photographs.rglob("*.jpg"):
        service.text(ONE_HEAD, path.read_bytes())


def _passed(service: Service) -> float:
    """Return how many images have passed through the network so far."""
    found = re.search(r'^featurecache_images_total\{found="network"\} (\S+)$', service.text("/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _rates(lab: Lab, service: Service) -> Iterator[Row]:
    """Measure every number of clients, with images that were never seen and with seen ones."""
    _show(lab, service)
    for images in ("unseen", "seen"):
        for clients in lab.plan.clients:
            before = _passed(service)
            measured = lab.ask(service, images, clients=clients)
            passed, answered = _passed(service) - before, measured["answered"]
            if passed != (answered if images == "unseen" else 0):
                raise RuntimeError(f"{answered} answers on {images} images took {passed:.0f} passes of an image")
            yield {"network": lab.network, "images": images, "clients": clients} | _shown(measured)


def _shown(measured: Row) -> Row:
    """Return a row of a table."""
    return {
        "answers_per_s": round(measured["rate"], 1),
        "p50_ms": measured["p50_ms"],
        "p99_ms": measured["p99_ms"],
        "refused": measured["refused"],
        "client_share": round(measured["client_share"], 3),
    }


def _of(rates: list[Row], images: str, clients: int) -> Row:
    return next(row for row in rates if (row["images"], row["clients"]) == (images, clients))


def _shares(lab: Lab, service: Service) -> dict[str, Any]:
    """Compare 32 clients with never seen images with the network alone, and with a whole extraction, in turns."""
    alone, served, extracted = [], [], []
    for _ in range(lab.plan.rounds):
        alone.append(lab.forward())
        served.append(lab.ask(service, clients=32)["rate"])
        extracted.append(lab.extract())
    return {
        f"{lab.network}_forward_images_per_s": round(statistics.median(alone), 1),
        f"{lab.network}_extract_images_per_s": round(statistics.median(extracted), 1),
        f"{lab.network}_32_clients_images_per_s": round(statistics.median(served), 1),
        f"{lab.network}_32_clients_over_forward": _median_ratio(served, alone),
        f"{lab.network}_32_clients_over_extract": _median_ratio(served, extracted),
        "bar_32_clients_over_forward": 0.9,
    }


def _median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return round(float(np.median(np.array(above) / np.array(below))), 3)


def _fifty_heads(lab: Lab, service: Service) -> dict[str, Any]:
    """Compare the time of an answer of all heads with that of one head, in turns."""
    one, fifty = [], []
    for _ in range(lab.plan.rounds):
        one.append(lab.ask(service, path=ONE_HEAD)["p50_ms"])
        fifty.append(lab.ask(service, path=ALL_HEADS)["p50_ms"])
    return {
        "one_head_p50_ms": statistics.median(one),
        "fifty_heads_p50_ms": statistics.median(fifty),
        "fifty_heads_over_one": _median_ratio(fifty, one),
        "bar_fifty_heads_over_one": 1.1,
    }


def _never_repeated(lab: Lab, service: Service) -> dict[str, Any]:
    """Compare a stream of images that never repeat with a service without a content cache, in turns."""
    kept: list[float] = []
    not_kept: list[float] = []
    with lab.start("--content-cache-mb", "0") as without:
        for number in range(2 * lab.plan.rounds):
            for one, rates in ((service, kept), (without, not_kept))[:: -1 if number % 2 else 1]:
                rates.append(lab.ask(one, clients=8)["rate"])
    return {
        "never_repeated_over_without_content_cache": _median_ratio(kept, not_kept),
        "bar_never_repeated_over_without_content_cache": 0.98,
    }


def _seen(lab: Lab, service: Service) -> dict[str, Any]:
    """Measure what is promised for seen images."""
    measured = lab.ask(service, "seen", clients=16, seconds=2 * lab.plan.seconds)
    return {
        "seen_16_clients_answers_per_s": round(measured["rate"]),
        "bar_seen_16_clients_answers_per_s": 500,
        "seen_16_clients_p99_ms": measured["p99_ms"],
        "bar_seen_16_clients_p99_ms": 20,
        "seen_16_clients_client_share": round(measured["client_share"], 3),
    }


def _overload(lab: Lab, service: Service, rate: float) -> Iterator[Row]:
    """Ask at half the rate that the service can take, at ten times that rate, and at half of it again."""
    for name, share, seconds in (
        ("half", 0.5, 2 * lab.plan.seconds),
        ("tenfold", OVERLOAD, lab.plan.overload_seconds),
        ("half, afterwards", 0.5, 2 * lab.plan.seconds),
    ):
        measured = lab.ask(service, rate=share * rate, seconds=seconds)
        more = {key: measured[key] for key in ("refused_p50_ms", "refused_p99_ms", "failed")}
        yield {"load": name, "asked_per_s": round(share * rate, 1)} | _shown(measured) | more


def _overload_share(rows: list[Row]) -> dict[str, Any]:
    half, tenfold, after = (row["p99_ms"] for row in rows)
    return {
        "tenfold_p99_over_half": round(tenfold / half, 2),
        "bar_tenfold_p99_over_half": 3,
        "afterwards_p99_over_half": round(after / half, 2),
    }


def _training(lab: Lab) -> Iterator[Row]:
    """Measure how soon a new version of a head answers, after a training on cached rows."""
    cache, image = lab.folder / "wide.h5", next(lab.photographs.rglob("*.jpg")).read_bytes()
    centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH)).astype(np.float32)
    write_cache(cache, centres, [row % CLASSES for row in range(ROWS)], ["train"] * ROWS)
    with lab.start("--cache", cache) as service:
        for family in FAMILIES:
            seconds = [_until_new_version(service, family, image) for _ in range(lab.plan.rounds)]
            yield {
                "family": family,
                "rows": f"{ROWS:,} x {WIDTH:,}",
                "seconds": round(statistics.median(seconds), 2),
                "longest": round(max(seconds), 2),
                "bar": 2,
            }


def _until_new_version(service: Service, family: str, image: bytes) -> float:
    began = time.perf_counter()
    job = service.ask("/heads/h00/train", {"family": family})["job"]
    version: str | None = None
    while version is None or version != service.ask(f"/jobs/{job}")["version"]:
        version = service.ask(ONE_HEAD, image)["results"][0]["heads"]["h00"]["version"]
    return time.perf_counter() - began


def _others(lab: Lab) -> Iterator[Row]:
    """Measure other services with 32 clients; one that is not installed or does not start is named."""
    for name in lab.plan.rivals if lab.network == lab.plan.networks[0] else BY_HAND:
        row: Row = {"service": name, "network": lab.network}
        try:
            service, version = start_rival(name, lab.model())
            if service is None:
                yield row | {"version": version}
                continue
            with service:
                how = {"path": RIVALS[name].path, "body": RIVALS[name].body}
                lab.ask(service, clients=32, **how)  # the first passes compile
                yield row | _shown(lab.ask(service, clients=32, **how)) | {"version": version}
        except RuntimeError as e:
            yield row | {"version": f"left out: {str(e).strip().splitlines()[-1]}"}


def over_by_hand(network: str, rates: list[Row], others: list[Row]) -> dict[str, Any]:
    """Compare 32 clients of this project's service with the faster of the services by hand."""
    found: dict[str, Any] = {}
    known = [row["answers_per_s"] for row in others if row["service"] in BY_HAND and "answers_per_s" in row]
    if not known:
        return found
    by_hand = max(known)
    for images, bar in (("unseen", 3), ("seen", 20)):
        found[f"{network}_{images}_over_by_hand"] = round(_of(rates, images, 32)["answers_per_s"] / by_hand, 1)
        found[f"bar_{images}_over_by_hand"] = bar
    return found
