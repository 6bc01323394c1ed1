"""LitServe with its batching, as its documentation has it. Arguments: model, port."""

import io
import sys
from typing import Any

import keras
import litserve
import numpy as np
from fastapi import Request


class Api(litserve.LitAPI):
    """Image files of forms in batches."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        del device
        self.model = keras.saving.load_model(sys.argv[1], safe_mode=True)

    def decode_request(self, request: Request) -> Any:  # noqa: ANN401 - LitServe has no types here
        """Return pixels."""
        form: Any = request  # LitServe reads it
        file = io.BytesIO(form["file"].file.read())
        return keras.utils.img_to_array(
            keras.utils.load_img(file, target_size=self.model.input_shape[1:3], interpolation="bilinear"), dtype="uint8"
        )

    def batch(self, inputs: Any) -> Any:  # noqa: ANN401
        """Join images."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:  # noqa: ANN401
        """Return probabilities."""
        return self.model.predict(x, verbose=0)

    def unbatch(self, output: Any) -> Any:  # noqa: ANN401
        """Take rows apart."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, list[float]]:  # noqa: ANN401
        """Return JSON."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=32, batch_timeout=0.005), accelerator="cpu", timeout=60)
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
