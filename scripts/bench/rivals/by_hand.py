"""What one writes by hand: FastAPI with `model.predict` in the handler, one image a request.

Arguments: model, port, and ``async`` for a handler on the event loop or ``threads`` for one in FastAPI's threads.
"""

import io
import sys
from typing import Any

import keras
import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile

model = keras.saving.load_model(sys.argv[1], safe_mode=True)
app = FastAPI()


def predicted(file: Any) -> dict[str, list[float]]:  # noqa: ANN401 - a file
    """Return the probabilities of an image."""
    image = keras.utils.load_img(file, target_size=model.input_shape[1:3], interpolation="bilinear")
    images = np.expand_dims(keras.utils.img_to_array(image, dtype="uint8"), 0)
    return {"probabilities": model.predict(images, verbose=0)[0].tolist()}


if sys.argv[3] == "async":

    @app.post("/predict")
    async def predict(file: UploadFile) -> dict[str, list[float]]:
        """Predict on the event loop."""
        return predicted(io.BytesIO(await file.read()))
else:

    @app.post("/predict")
    def predict_in_thread(file: UploadFile) -> dict[str, list[float]]:
        """Predict in a thread."""
        return predicted(io.BytesIO(file.file.read()))


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
