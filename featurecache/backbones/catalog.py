"""The catalogue of networks, as data: one row per network; imports no framework.

Widths and weight files are those of `keras.applications`; `tests/featurecache/backbones` compares them with Keras.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from featurecache.backbones.protocol import Backbone, BackboneSpec
from featurecache.entry_points import Registry
from featurecache.errors import EngineError, FeatureCacheError, UnknownNameError
from featurecache.options import PRECISIONS

_STORAGE = "https://storage.googleapis.com"
HEAD_ALONE = ""
PREPROCESSING = ("caffe", "tf", "none")
"""The modes of preprocessing that exist; see `NetworkSpec`."""

BGR_MEAN = (103.939, 116.779, 123.68)  # mean of ImageNet's pixels, of Keras's mode "caffe"


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network of `keras.applications`.

    Parameters
    ----------
    name
        The name of the network in this catalogue.
    constructor, module
        The constructor in `keras.applications`, and the module with its preprocessing.
    input_size
        Height and width of the input in pixels, as in its training.
    preprocessing
        Keras's mode: ``caffe`` (BGR minus the ImageNet mean), ``tf`` (to -1..1), ``none`` (inside the network).
    taps
        The taps from the input on, and their widths. ``logits`` is the classifier before its
        softmax, ``avg_pool`` the pooled features below it; other taps have the names of Keras's layers.
    default_taps
        The taps that are cached by default.
    stages
        The stages at which fine-tuning can begin, and the first layer that is trained, together with all layers after
        it; `HEAD_ALONE` if only the head is trained.
    weights_file, weights_url, weights_md5
        The ImageNet weights: file name in Keras's own folder, download address, and MD5 where Keras pins one.
    imagenet_by_name_only
        Whether Keras builds the network differently for its ImageNet weights than for a weight file, as EfficientNet
        B0 to B7: it scales normalised images once more.
    blocks
        For VGG networks the number of convolutions in each block, and their channels; empty for others.

    Examples
    --------
    >>> network = featurecache.find_network("vgg16")
    >>> dict(network.spec("random:0", ("fc2",), "float32").taps)
    {'fc2': 4096}
    """

    name: str
    constructor: str
    module: str
    input_size: tuple[int, int]
    preprocessing: str
    taps: Mapping[str, int]
    default_taps: tuple[str, ...]
    stages: Mapping[str, str]
    weights_file: str
    weights_url: str
    weights_md5: str | None = None
    imagenet_by_name_only: bool = False
    blocks: tuple[tuple[int, int], ...] = ()

    def spec(self, weights: str, taps: Iterable[str] | None = None, precision: str = "float32") -> BackboneSpec:
        """Return what identifies this network with these weights, taps and precision; see `backbone_spec`."""
        return backbone_spec(self, weights, taps, precision)

    def stages_below(self, tap: str) -> list[str]:
        """Return the stages that change the activations of a tap: those that begin at its layer or below.

        A stage begins at the layer of a tap, or below all of these layers.
        """
        order = [HEAD_ALONE, *self.taps]
        reach = order.index(tap)
        return [stage for stage, first in self.stages.items() if first not in order or order.index(first) <= reach]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalNetwork:
    """A network that an installed package adds and runs itself; see ``docs/plugins.md``.

    Parameters
    ----------
    name
        The network's name; the same as that of its entry point.
    input_size
        Height and width of its input, in pixels.
    preprocessing
        A name for the arithmetic between uint8 pixels and the network. Change it when the arithmetic changes.
    taps
        The taps from the input on, and their widths.
    default_taps
        The taps that are cached by default.
    identify
        Called with the value of ``--weights``; returns the identity of these weights, such as ``"sha256:…"`` of a
        file. Must not load the network. Equal identities must mean equal features. Raises `WeightsError` if there are
        no such weights. The value is ``"imagenet"`` if the user gives none.
    start
        Called as ``start(weights=…, taps=…, batch_size=…, device=…)``; returns the running `Backbone`.
        ``weights`` is what `identify` was called with, ``taps`` a tuple of names in ascending order, and ``device``
        ``"auto"``, ``"cpu"`` or ``"gpu"``.
    batch_size
        Default number of images in a batch.
    """

    name: str
    input_size: tuple[int, int]
    preprocessing: str
    taps: Mapping[str, int]
    default_taps: tuple[str, ...]
    identify: Callable[[str], str]
    start: Callable[..., Backbone]
    batch_size: int = 32

    def spec(self, weights: str, taps: Iterable[str] | None = None, precision: str = "float32") -> BackboneSpec:
        """Return what identifies this network with these weights, taps and precision; see `backbone_spec`."""
        return backbone_spec(self, weights, taps, precision)


def backbone_spec(
    network: NetworkSpec | ExternalNetwork, weights: str, taps: Iterable[str] | None, precision: str
) -> BackboneSpec:
    """Return what identifies a network with these weights, taps and precision.

    Raises
    ------
    UnknownNameError
        If a tap or the precision does not exist.
    """
    names = sorted(set(network.default_taps if taps is None else taps))
    for name in names:
        if name not in network.taps:
            raise UnknownNameError(f"tap of {network.name}", name, network.taps)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    return BackboneSpec(
        name=network.name,
        weights=weights,
        input_size=network.input_size,
        preprocessing=network.preprocessing,
        taps={name: network.taps[name] for name in names},
        precision=precision,
    )


def in_network_order(backbone: str, taps: Iterable[str]) -> list[str]:
    """Return names of taps in the order of a network's layers, from the input on.

    A network that is not in the catalogue has no known order: its taps are returned as they are given.

    Examples
    --------
    >>> in_network_order("vgg16", ["fc2", "flatten", "predictions"])
    ['flatten', 'fc2', 'predictions']
    """
    names = list(taps)
    try:
        order = list(REGISTRY.find(backbone).taps)
    except FeatureCacheError:
        return names
    return sorted(names, key=lambda name: order.index(name) if name in order else -1)


def load_networks() -> tuple[dict[str, NetworkSpec | ExternalNetwork], list[str]]:
    """Return all networks by name, those of installed packages last, and one line for each that cannot be loaded.

    Examples
    --------
    >>> networks, faults = featurecache.load_networks()
    >>> "vgg16" in networks
    True
    """
    return REGISTRY.load_all()


def find_network(name: str) -> NetworkSpec:
    """Return the Keras network of this name.

    Raises
    ------
    UnknownNameError
        If there is no network of this name.
    EntryPointError
        If a package has a network of this name that cannot be loaded.
    EngineError
        If a package runs the network of this name itself, so that Keras cannot.

    Examples
    --------
    >>> featurecache.find_network("vgg16").default_taps
    ('fc2', 'predictions')
    """
    network = REGISTRY.find(name)
    if isinstance(network, ExternalNetwork):
        known = ", ".join(NETWORKS)
        raise EngineError(f"{name} is not a Keras network: a package adds and runs it; this works with {known}")
    return network


def _vgg(name: str, constructor: str, convolutions: tuple[int, ...], md5: str) -> NetworkSpec:
    """Return a VGG network: blocks of 3x3 convolutions, each followed by a pooling layer, then three dense layers."""
    blocks = tuple(zip(convolutions, (64, 128, 256, 512, 512), strict=True))
    taps: dict[str, int] = {}
    side = 224
    for block, (count, channels) in enumerate(blocks, start=1):
        for convolution in range(1, count + 1):
            taps[f"block{block}_conv{convolution}"] = prod((side, side, channels))
        side //= 2
        taps[f"block{block}_pool"] = prod((side, side, channels))
    taps |= {"flatten": taps["block5_pool"], "fc1": 4096, "fc2": 4096, "logits": 1000, "predictions": 1000}
    file = f"{name}_weights_tf_dim_ordering_tf_kernels.h5"
    return NetworkSpec(
        name=name,
        constructor=constructor,
        module=name,
        input_size=(224, 224),
        preprocessing="caffe",
        taps=taps,
        default_taps=("fc2", "predictions"),
        stages={"predictions": HEAD_ALONE, "fc": "fc1", "block5": "block5_conv1"},
        weights_file=file,
        weights_url=f"{_STORAGE}/tensorflow/keras-applications/{name}/{file}",
        weights_md5=md5,
        blocks=blocks,
    )


def _pooled(width: int) -> dict[str, int]:
    """Return the taps of a network that ends in global average pooling and one dense layer."""
    return {"avg_pool": width, "logits": 1000, "predictions": 1000}


NETWORKS: Mapping[str, NetworkSpec] = {
    row.name: row
    for row in (
        _vgg("vgg16", "VGG16", (2, 2, 3, 3, 3), "64373286793e3c8b2b4e3219cbf3544b"),
        _vgg("vgg19", "VGG19", (2, 2, 4, 4, 4), "cbe5617147190e668d6c5d5026f83318"),
        NetworkSpec(
            name="mobilenet_v2",
            constructor="MobileNetV2",
            module="mobilenet_v2",
            input_size=(224, 224),
            preprocessing="tf",
            taps=_pooled(1280),
            default_taps=("avg_pool", "predictions"),
            stages={"predictions": HEAD_ALONE, "block16": "block_16_expand"},
            weights_file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
            weights_url=f"{_STORAGE}/tensorflow/keras-applications/mobilenet_v2/"
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
        ),
        NetworkSpec(
            name="mobilenet",
            constructor="MobileNet",
            module="mobilenet",
            input_size=(224, 224),
            preprocessing="tf",
            taps=_pooled(1024),
            default_taps=("avg_pool", "predictions"),
            stages={"predictions": HEAD_ALONE, "block13": "conv_dw_13"},
            weights_file="mobilenet_1_0_224_tf.h5",
            weights_url=f"{_STORAGE}/tensorflow/keras-applications/mobilenet/mobilenet_1_0_224_tf.h5",
        ),
        NetworkSpec(
            name="resnet50",
            constructor="ResNet50",
            module="resnet",
            input_size=(224, 224),
            preprocessing="caffe",
            taps=_pooled(2048),
            default_taps=("avg_pool", "predictions"),
            stages={"predictions": HEAD_ALONE, "conv5": "conv5_block1_1_conv"},
            weights_file="resnet50_weights_tf_dim_ordering_tf_kernels.h5",
            weights_url=f"{_STORAGE}/tensorflow/keras-applications/resnet/"
            "resnet50_weights_tf_dim_ordering_tf_kernels.h5",
            weights_md5="2cb95161c43110f7111970584f804107",
        ),
        NetworkSpec(
            name="efficientnet_b0",
            constructor="EfficientNetB0",
            module="efficientnet",
            input_size=(224, 224),
            preprocessing="none",
            taps=_pooled(1280),
            default_taps=("avg_pool", "predictions"),
            stages={"predictions": HEAD_ALONE, "block7": "block7a_expand_conv"},
            weights_file="efficientnetb0.h5",
            weights_url=f"{_STORAGE}/keras-applications/efficientnetb0.h5",
            weights_md5="902e53a9f72be733fc0bcb005b3ebbac",
            imagenet_by_name_only=True,
        ),
    )
}


def _accept(name: str, found: object) -> NetworkSpec | ExternalNetwork:
    """Return the object of an entry point; raise `TypeError` unless it describes a network of this name."""
    if not isinstance(found, NetworkSpec | ExternalNetwork):
        raise TypeError(f"a {type(found).__name__} is given, expected a NetworkSpec or an ExternalNetwork")
    if found.name != name:
        raise TypeError(f"the network calls itself {found.name!r}")
    if isinstance(found, NetworkSpec) and found.preprocessing not in PREPROCESSING:
        raise TypeError(f"its preprocessing is {found.preprocessing!r}, expected one of {', '.join(PREPROCESSING)}")
    missing = [tap for tap in found.default_taps if tap not in found.taps]
    if missing or not found.default_taps:
        raise TypeError(
            f"default_taps are {', '.join(found.default_taps) or 'none'}; expected some of {', '.join(found.taps)}"
        )
    return found


REGISTRY: Registry[NetworkSpec | ExternalNetwork] = Registry("featurecache.backbones", "backbone", NETWORKS, _accept)
"""The networks of `NETWORKS`, and those that installed packages add."""
