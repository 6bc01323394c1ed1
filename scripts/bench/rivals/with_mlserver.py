"""MLServer with a runtime and its adaptive batching, as its documentation has it; ``mlserver start`` starts it.

The folder that it starts in has ``model.keras``, ``settings.json`` and ``model-settings.json``.
"""

import base64
import io
from typing import Any

import keras
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    """Image files in base64 as a tensor of bytes."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = keras.saving.load_model("model.keras", safe_mode=True)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return probabilities."""
        size = self.model.input_shape[1:3]
        files: Any = payload.inputs[0].data.root
        images = [
            keras.utils.load_img(io.BytesIO(base64.b64decode(file)), target_size=size, interpolation="bilinear")
            for file in files
        ]
        found = self.model.predict(np.stack([np.asarray(image) for image in images]), verbose=0)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(name="probabilities", payload=found)]
        )
