"""Train a Keras model of your own on a feature set, and evaluate it like a head of this project.

Run extract_and_train.py first; it makes digits.h5.
"""

import keras
import numpy as np

import heads
from featurecache import FeatureCache

# 1. A feature set: X (n, d) float32, y (n,) class numbers, with the paths. X is memory-mapped.
cache = FeatureCache.open("digits.h5")
train = cache.features("avg_pool", split="train")
valid = cache.features("avg_pool", split="valid")
test = cache.features("avg_pool", split="test")

# 2. Any model from features to probabilities. Standardise features with statistics of the training rows.
keras.utils.set_random_seed(0)
normalise = keras.layers.Normalization()
normalise.adapt(np.asarray(train.X))
model = keras.Sequential(
    [
        keras.Input((train.X.shape[1],)),
        normalise,
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(len(cache.classes), activation="softmax"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(
    np.asarray(train.X),
    train.y,
    epochs=20,
    verbose=0,
    validation_data=(np.asarray(valid.X), valid.y),
    callbacks=[keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)],
)

# 3. The same metrics and intervals as for other heads, from a predictions table.
table = heads.PredictionsTable(
    paths=test.paths,
    splits=test.splits,
    true=test.y,
    classes=cache.classes,
    probabilities=model.predict(np.asarray(test.X), verbose=0).astype(np.float64),
)
evaluation = heads.evaluate_table(table, split="test")
interval = evaluation.accuracy
print(f"accuracy {interval.value:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}")
model.save("own_head.keras")
