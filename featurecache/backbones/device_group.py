"""One network on several devices of a kind: each pass runs on a device that is free."""

from collections.abc import Mapping, Sequence
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.batch_size import Resizable
from featurecache.backbones.protocol import BackboneSpec


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
        self._members = tuple(members)
        self._free: SimpleQueue[Resizable] = SimpleQueue()
        for _ in range(members[0].passes_at_once):
            for member in members:  # in turns: two passes do not share a device while another one is free
                self._free.put(member)

    @property
    def spec(self) -> BackboneSpec:
        """The spec of every member."""
        return self._members[0].spec

    @property
    def provenance(self) -> Mapping[str, str]:
        """What computes a pass, and the number of devices."""
        return {
            **self._members[0].provenance,
            "devices": str(len(self._members)),
            "batch_size": str(self.batch_size),
        }

    @property
    def batch_size(self) -> int:
        """Images of a pass: the smallest number that a device's memory has allowed so far."""
        return min(member.batch_size for member in self._members)

    @property
    def passes_at_once(self) -> int:
        """The passes of all devices together."""
        return sum(member.passes_at_once for member in self._members)

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
            if member.batch_size > self.batch_size:
                member.resize(self.batch_size)
            return member.forward(images)
        finally:
            self._free.put(member)
