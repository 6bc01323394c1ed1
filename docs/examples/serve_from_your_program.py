"""Answer requests for predictions from a program of your own, such as a web service.

Run extract_and_train.py first; it makes digits.h5 and digits-logreg/. A predictor holds the started network, so that a
request costs one forward pass and nothing else. Several heads of one network share that pass.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import heads
from featurecache import FeatureCache

# 1. A second head on the same network.
if not Path("digits-centroid").exists():
    heads.train(FeatureCache.open("digits.h5"), "centroid", tap="avg_pool").save("digits-centroid")

# 2. One predictor for the whole program. Most engines compute whole batches: a small batch answers one image sooner.
# start() starts the network now; without it the first request waits for that.
with heads.Predictor.load(["digits-logreg", "digits-centroid"], batch_size=2) as predictor:
    predictor.start()

    # 3. An image is a path, the bytes of an uploaded file, or a uint8 array of RGB pixels. None of them raises.
    file = min(Path("digits", "test").glob("*/*.png"))  # the network resizes it
    requests = [file, file.read_bytes(), np.zeros((64, 64, 3), np.uint8), b"not an image"]
    for result in predictor.predict(requests):
        if isinstance(result, heads.ImagePrediction):
            print({head: f"class {result.best(head)}, one of {len(result.classes[head])}" for head in predictor.heads})
            print(result.ranked("digits-logreg", top=3))
        else:
            print(f"failed with the code {result.code}: {result.reason}")

    # 4. Threads share the predictor: each call returns its own results, in its own order.
    files = sorted(Path("digits", "test").glob("*/*.png"))
    with ThreadPoolExecutor(4) as pool:
        answers = [result for (result,) in pool.map(lambda path: predictor.predict([path]), files)]
    correct = [answer.best("digits-logreg") == path.parent.name for path, answer in zip(files, answers, strict=True)]
    print(f"{sum(correct)} of {len(files)} images are classified correctly")
