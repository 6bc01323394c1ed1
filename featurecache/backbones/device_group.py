"""One network on several devices of a kind: each pass runs on a device that is free."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Condition

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.batch_size import Resizable
from featurecache.backbones.protocol import BackboneSpec


class _Member:
    """A backbone of a group, and the number of passes that run on it: its batch size changes when there is none."""

    def __init__(self, backbone: Resizable) -> None:
        self.backbone = backbone
        self._changed = Condition()
        self._running = 0

    def resize(self, batch_size: int) -> None:
        """Set the batch size when no pass runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
            self.backbone.resize(batch_size)

    @contextmanager
    def running(self, limit: Callable[[], int]) -> Iterator[None]:
        """Count a pass, before which larger batches than the ``limit`` of now become smaller."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running or self.backbone.batch_size <= limit())
            if self.backbone.batch_size > (most := limit()):
                self.backbone.resize(most)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


class DeviceGroup:
    """A backbone made of backbones that are alike, each on a device of its own.

    It computes a whole batch on one device. So rows have the bytes that one of the devices alone gives them, and the
    caller's threads, as many as `passes_at_once`, keep all devices busy.

    Parameters
    ----------
    members
        Backbones of one spec and one batch size, at least one.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> class Device(FakeBackbone):
    ...     def resize(self, batch_size: int) -> None:
    ...         self.batch_size = batch_size
    >>> group = DeviceGroup([Device(), Device()])
    >>> group.passes_at_once, group.provenance["devices"]
    (2, '2')
    """

    def __init__(self, members: Sequence[Resizable]) -> None:
        self._backbones = tuple(members)
        self._members = tuple(map(_Member, members))
        self._free: SimpleQueue[_Member] = SimpleQueue()
        for _ in range(members[0].passes_at_once):
            for member in self._members:  # in turns: two passes do not share a device while another one is free
                self._free.put(member)

    @property
    def spec(self) -> BackboneSpec:
        """The spec of every member."""
        return self._backbones[0].spec

    @property
    def provenance(self) -> Mapping[str, str]:
        """What computes a pass, and the number of devices."""
        return {
            **self._backbones[0].provenance,
            "devices": str(len(self._members)),
            "batch_size": str(self.batch_size),
        }

    @property
    def batch_size(self) -> int:
        """Images of a pass: the smallest number that a device's memory has allowed so far."""
        return min(backbone.batch_size for backbone in self._backbones)

    @property
    def passes_at_once(self) -> int:
        """The passes of all devices together."""
        return sum(backbone.passes_at_once for backbone in self._backbones)

    def resize(self, batch_size: int) -> None:
        """Set the batch size of every device."""
        for member in self._members:
            member.resize(batch_size)

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations in one pass, on the device that has waited longest; see `Backbone.forward`.

        When a device has run out of memory and halved its batches, the others do so before their next pass.
        """
        member = self._free.get()
        try:
            with member.running(lambda: self.batch_size):
                return member.backbone.forward(images)
        finally:
            self._free.put(member)
