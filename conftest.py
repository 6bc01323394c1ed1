"""Names for the examples in docstrings: ``images``, ``cache``, ``head``, ``evaluation`` and ``folder``.

``images`` is a folder with 24 dark and 24 light images in the splits train and valid, ``cache`` has their features by
`FakeBackbone`, ``head`` is trained on them, ``evaluation`` is that of the valid split, and ``folder`` is empty.
"""

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def _example(tmp_path_factory):
    """Make the images, the cache and the head that all examples share."""
    from PIL import Image

    import featurecache
    import heads
    from featurecache.backbones.fake import FakeBackbone

    images = tmp_path_factory.mktemp("example") / "images"
    for number in range(48):
        split, label = ("train", "valid")[number % 3 == 2], ("dark", "light")[number % 2]
        path = images / split / label / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (2 * number + 100 * (number % 2), 3 * number, 80)).save(path)
    cache = featurecache.extract(images, images.with_name("example.h5"), backbone=FakeBackbone())
    head = heads.train(cache, "centroid", tap="features")
    evaluation = heads.evaluate(head, heads.select_rows(cache, head, "valid"))
    return SimpleNamespace(images=images, cache=cache, head=head, evaluation=evaluation)


@pytest.fixture(autouse=True)
def _names_of_examples(request, doctest_namespace):
    """Give every example in a docstring its names."""
    if isinstance(request.node, pytest.DoctestItem):
        import featurecache
        import heads
        from featurecache.backbones.fake import FakeBackbone

        modules = {"featurecache": featurecache, "heads": heads, "FakeBackbone": FakeBackbone}
        example = request.getfixturevalue("_example")
        doctest_namespace.update(vars(example), folder=request.getfixturevalue("tmp_path"), **modules)
