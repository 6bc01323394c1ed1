"""Read a cache without featurecache: with h5py, and as a table with pandas.

python read_cache_with_h5py_and_pandas.py CACHE.h5 prints what is in the cache and writes CACHE.csv.
"""

import json
import sys
from pathlib import Path

import h5py
import pandas as pd

path = Path(sys.argv[1] if len(sys.argv) > 1 else "digits.h5")
with h5py.File(path) as file:
    recipe = json.loads(file["recipe"][()])
    taps = list(file["features"])
    classes = file["classes"].asstr()[:]
    labels = file["images/label"][:]  # -1 is an image without a label
    X = file["features"][taps[0]][:]  # all rows in memory; file["features"][taps[0]][10:20] reads ten
    images = pd.DataFrame(
        {
            "path": file["images/path"].asstr()[:],
            "split": file["images/split"].asstr()[:],
            "label": [classes[label] if label >= 0 else None for label in labels],
            "bytes": file["images/size"][:],
            "mean": X.mean(axis=1),
        }
    )
    for name, column in file.get("columns", {}).items():  # the further columns of a table, if there are any
        images[name] = column["values"].asstr()[:][column["codes"][:]]
    failures = pd.DataFrame({"path": file["failures/path"].asstr()[:], "reason": file["failures/reason"].asstr()[:]})

print(f"{path.name}: {recipe['backbone']}, taps {', '.join(taps)}, {len(images)} images, {len(failures)} failures")
print(images.groupby(["split", "label"], dropna=False).size().to_string())
images.to_csv(path.with_suffix(".csv").name, index=False)
