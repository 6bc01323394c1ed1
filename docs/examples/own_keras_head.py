"""Train Keras layers of your own as a head: it is evaluated, stored and served like any other.

Run extract_and_train.py first; it makes digits.h5.
"""

from pathlib import Path

import heads
from featurecache import FeatureCache

# 1. A function that builds the layers above the features, in a module of the current folder or of Python's path.
Path("my_layers.py").write_text(
    """
import keras

def build(width, classes, units=64, dropout=0.3):
    return [
        keras.layers.Dense(units, activation="relu"),
        keras.layers.Dropout(dropout),
        keras.layers.Dense(classes, activation="softmax"),
    ]
""",
    "utf-8",
)

# 2. Keras trains it on the train split, with parameters of the function and of the training.
cache = FeatureCache.open("digits.h5")
head = heads.train(
    cache,
    "keras:my_layers:build",
    tap="avg_pool",
    params={"units": 96, "epochs": 20, "patience": 3, "keep": "best", "schedule": "cosine"},
)

# 3. The head is stored as plain arrays. It needs neither the function nor Keras from now on.
head.save("digits-own-layers")
loaded = heads.TrainedHead.load("digits-own-layers")
interval = heads.evaluate(loaded, cache.features("avg_pool", split="test")).accuracy
print(f"accuracy {interval.value:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}")
