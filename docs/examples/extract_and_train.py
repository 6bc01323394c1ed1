"""Write some images, extract their features, and train and evaluate a head.

Run it in an empty folder: python extract_and_train.py. It makes digits/, digits.h5 and digits-logreg/, which the other
examples use. Nothing is downloaded: the network has random weights, so the accuracy is lower than with pretrained ones.
"""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

import featurecache
import heads

# 1. Images: <split>/<class>/<name>. scikit-learn's digits have 8 x 8 pixels; the network resizes all images itself.
digits = load_digits()
for number in range(360):
    split = ("train", "valid", "test")[max(0, number // 60 - 3)]  # 240, 60 and 60 images
    path = Path("digits", split, str(digits.target[number]), f"{number:03d}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((digits.images[number] * 255 / 16).astype("uint8")).resize((64, 64)).save(path)

# 2. Features: each image passes through the network once. Repeat this call: it computes nothing again.
cache = featurecache.extract("digits", "digits.h5", backbone="mobilenet_v2", weights="random:0", taps=["avg_pool"])
print(f"{len(cache)} images, taps {cache.taps}, classes {', '.join(cache.classes)}")

# 3. A head: trained on the split "train". An existing folder is never replaced.
head = heads.train(cache, "logreg", tap="avg_pool")
head.save("digits-logreg")

# 4. Its evaluation, on images that it has not seen.
evaluation = heads.evaluate(head, cache.features("avg_pool", split="test"))
interval = evaluation.accuracy
print(f"accuracy {interval.value:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}")
for path in evaluation.table.paths[~evaluation.table.correct][:3]:
    print("wrong:", path)
