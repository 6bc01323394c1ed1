"""BentoML with its adaptive batching, as its documentation has it; ``bentoml serve`` starts it.

The environment variable ``MODEL`` names the model.
"""

import os
from typing import Any

import bentoml
import keras
import numpy as np
from PIL.Image import Image, Resampling


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 512})
class Service:
    """Image files of forms in batches."""

    def __init__(self) -> None:
        self.model = keras.saving.load_model(os.environ["MODEL"], safe_mode=True)

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000)
    def predict(self, file: list[Image]) -> list[list[float]]:
        """Return probabilities."""
        height, width = self.model.input_shape[1:3]
        images = [image.convert("RGB").resize((width, height), Resampling.BILINEAR) for image in file]
        found: Any = self.model.predict(np.stack([np.asarray(image) for image in images]), verbose=0)
        return found.tolist()  # type: ignore[no-any-return]
