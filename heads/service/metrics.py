"""What the service counts, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurecache.images.failures import Failure

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one service, in a registry of its own; a `heads.service.batching.Watcher`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counted: dict[str, Any] = {"namespace": "featurecache", "registry": self.registry}
        self.requests = Counter("requests", "Requests by route and status", ["route", "status"], **counted)
        self.request_seconds = Histogram(
            "request_seconds",
            "Seconds from the head of a request to its answer",
            ["route"],
            buckets=_SECONDS,
            **counted,
        )
        self.passes = Counter("passes", "Forward passes", **counted)
        self.pass_seconds = Histogram("pass_seconds", "Seconds of a forward pass", buckets=_SECONDS, **counted)
        self.batch_images = Histogram("batch_images", "Images of a forward pass", buckets=_IMAGES, **counted)
        self.images = Counter("images", "Contents by the place of their features", ["found"], **counted)
        self.decode_failures = Counter("decode_failures", "Images that cannot be decoded, by code", ["code"], **counted)
        self.left = Counter("abandoned_images", "Images whose callers left before their pass", **counted)
        self._gauges = counted

    def show(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read whenever the metrics are."""
        Gauge(name, text, **self._gauges).set_function(value)

    def passed(self, images: int, seconds: float) -> None:
        """Count a pass."""
        self.passes.inc()
        self.pass_seconds.observe(seconds)
        self.batch_images.observe(images)
        self.images.labels("network").inc(images)

    def failed_to_decode(self, failure: Failure) -> None:
        """Count an image that cannot be decoded."""
        self.decode_failures.labels(failure.code).inc()

    def abandoned(self) -> None:
        """Count an image that nobody waits for any more."""
        self.left.inc()

    def hit(self, found: str, images: int) -> None:
        """Count contents whose features were known."""
        self.images.labels(found).inc(images)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)
