"""How many images may wait for a pass: few as long as more come than the network can compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

BURST = 32
LARGEST = 256  # images of a request
SHORT_SECONDS, FEWEST = 0.15, 4
_CALM_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class WaitingRoom:
    """The bound of a queue of images.

    Without a fixed bound, `BURST` images may wait: so many clients can ask at the same time. Where one is refused, more
    come than the network can compute. A full queue would only make every answer late then. So until none has been
    refused for a second, no more may wait than the network computes in `SHORT_SECONDS`, but `FEWEST` may: passes with
    fewer images waste time, and a service that computes less than before is not calm again.

    Parameters
    ----------
    fixed
        How many images may wait at any time; None to go by the network's rate.
    """

    fixed: int | None = None
    _scarce_until: float = -math.inf

    @property
    def largest(self) -> int:
        """How many images one request may have; it may enter when nobody waits."""
        return self.fixed or LARGEST

    def size(self, seconds_per_image: float, now: float) -> int:
        """Return how many images may wait now.

        Parameters
        ----------
        seconds_per_image
            What the network takes for an image; 0 if it has not been measured.
        now
            Seconds of a steady clock.
        """
        if self.fixed is not None:
            return self.fixed
        return min(BURST, self.at_once(BURST, seconds_per_image, now))

    def at_once(self, images: int, seconds_per_image: float, now: float) -> int:
        """Return how many of some images the next pass may take: those that came before it should not wait long."""
        if self.fixed is not None or now >= self._scarce_until or not seconds_per_image:
            return images
        return min(images, max(FEWEST, int(SHORT_SECONDS / seconds_per_image)))

    def admit(self, new: int, waiting: int, seconds_per_image: float, now: float) -> bool:
        """Return whether ``new`` images may join those that wait."""
        bound = self.size(seconds_per_image, now) if waiting else self.largest
        if not new or waiting + new <= bound:
            return True
        self.refused(now)
        return False

    def refused(self, now: float) -> None:
        """Record that a request was refused."""
        self._scarce_until = now + _CALM_SECONDS
