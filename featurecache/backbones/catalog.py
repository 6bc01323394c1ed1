"""The catalogue of networks, as data: one row per network; imports no framework.

Widths and weight files are those of `keras.applications`; `tests/featurecache/backbones` compares them with Keras.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from featurecache.backbones.protocol import Backbone, BackboneSpec
from featurecache.entry_points import Registry
from featurecache.errors import EngineError, FeatureCacheError, UnknownNameError
from featurecache.options import FILTERS, PRECISIONS, PREPROCESSING, RESIZES

_STORAGE = "https://storage.googleapis.com"
_MD5_DIGITS, _SHA256_DIGITS = 32, 64
HEAD_ALONE = ""
OWN_MODEL = "keras"
"""The name of every network that is a model file or a preset of the user's own; its weights say which one."""


BGR_MEAN = (103.939, 116.779, 123.68)  # mean of ImageNet's pixels, of Keras's mode "caffe"
RGB_MEAN, RGB_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels from 0 to 1, of mode "torch"


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network of `keras.applications`.

    Parameters
    ----------
    name
        The name of the network in this catalogue.
    constructor, module
        The constructor in `keras.applications`, and its module; empty for a model of the user's own.
    input_size
        Height and width of the input in pixels, as in its training.
    preprocessing
        Keras's mode: ``caffe`` (BGR minus the ImageNet mean), ``tf`` (to -1..1), ``torch`` (to 0..1, then ImageNet's
        mean and deviation of each channel), ``unit`` (to 0..1), ``none`` (from 0 to 255, as they are) or ``inside``
        (the same, because the network has layers for it); empty if it is not known of a model of the user's own.
    taps
        The taps from the input on, and their widths. ``logits`` is the classifier before its
        softmax, ``avg_pool`` the pooled features below it; other taps have the names of Keras's layers.
    default_taps
        The taps that are cached by default.
    stages
        The stages at which fine-tuning can begin, and the first layer that is trained, together with all layers after
        it; `HEAD_ALONE` if only the head is trained.
    weights_file, weights_url, weights_md5, weights_sha256
        The ImageNet weights: file name in Keras's own folder, download address, and the digest that Keras pins, if any.
        Of a model of the user's own its path, if it was read, and nothing else.
    imagenet_by_name_only
        Whether Keras builds the network differently for its ImageNet weights than for a weight file, as EfficientNet
        B0 to B7: it scales normalised images once more.
    blocks
        For VGG networks the number of convolutions in each block, and their channels; empty for others.
    parameters
        The number of its weights, with the classifier; 0 if it is not known.
    resize, filter
        How images are resized, unless the user or a cache says otherwise.

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
    weights_sha256: str | None = None
    imagenet_by_name_only: bool = False
    blocks: tuple[tuple[int, int], ...] = ()
    parameters: int = 0
    resize: str = RESIZES[0]
    filter: str = FILTERS[0]

    def spec(self, weights: str, taps: Iterable[str] | None = None, precision: str = "float32") -> BackboneSpec:
        """Return what identifies this network with these weights, taps and precision; see `backbone_spec`."""
        return backbone_spec(self, weights, taps, precision)

    @property
    def is_own_model(self) -> bool:
        """Whether it is a model file or a preset of the user's own."""
        return not self.constructor

    @property
    def title(self) -> str:
        """How messages name it."""
        return "the model" if self.is_own_model else self.name

    def stages_below(self, tap: str) -> list[str]:
        """Return the stages that change the activations of a tap: those that begin at its layer or below.

        A stage begins at the layer of a tap, or below all of these layers.
        """
        order = [HEAD_ALONE, *self.taps]
        reach = order.index(tap)
        if self.is_own_model:  # its stages have the names of its taps
            return [
                stage
                for stage, first in self.stages.items()
                if first == HEAD_ALONE or stage not in order or order.index(stage) <= reach
            ]
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


def _vgg(name: str, constructor: str, convolutions: tuple[int, ...], md5: str, parameters: int) -> NetworkSpec:
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
        parameters=parameters,
    )


def _pooled(
    name: str,
    constructor: str,
    *,
    module: str,
    preprocessing: str,
    taps: Mapping[str, int],
    stage: tuple[str, str],
    weights: str,
    digest: str = "",
    side: int = 224,
    weights_file: str = "",
    imagenet_by_name_only: bool = False,
    parameters: int,
) -> NetworkSpec:
    """Return a network that ends in global average pooling and a classifier of ImageNet's 1,000 classes.

    Parameters
    ----------
    taps
        The taps below the classifier.
    stage
        The last stage of the network: its name, and its first layer.
    weights, digest
        The address of the weights below ``_STORAGE``; MD5 (32 digits) or SHA-256 (64), or nothing if Keras pins none.
    side
        Height and width of the input.
    weights_file
        The name of the weight file in Keras's own folder if it is not that of the address.
    """
    return NetworkSpec(
        name=name,
        constructor=constructor,
        module=module,
        input_size=(side, side),
        preprocessing=preprocessing,
        taps={**taps, "logits": 1000, "predictions": 1000},
        default_taps=("avg_pool", "predictions"),
        stages={"predictions": HEAD_ALONE, stage[0]: stage[1]},
        weights_file=weights_file or weights.rpartition("/")[2],
        weights_url=f"{_STORAGE}/{weights}",
        weights_md5=digest if len(digest) == _MD5_DIGITS else None,
        weights_sha256=digest if len(digest) == _SHA256_DIGITS else None,
        imagenet_by_name_only=imagenet_by_name_only,
        parameters=parameters,
    )


NETWORKS: Mapping[str, NetworkSpec] = {
    row.name: row
    for row in (
        _vgg("vgg16", "VGG16", (2, 2, 3, 3, 3), "64373286793e3c8b2b4e3219cbf3544b", 138_357_544),
        _vgg("vgg19", "VGG19", (2, 2, 4, 4, 4), "cbe5617147190e668d6c5d5026f83318", 143_667_240),
        _pooled(
            "mobilenet_v2",
            "MobileNetV2",
            module="mobilenet_v2",
            preprocessing="tf",
            taps={"avg_pool": 1280},
            stage=("block16", "block_16_expand"),
            weights="tensorflow/keras-applications/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
            parameters=3_538_984,
        ),
        _pooled(
            "mobilenet",
            "MobileNet",
            module="mobilenet",
            preprocessing="tf",
            taps={"avg_pool": 1024},
            stage=("block13", "conv_dw_13"),
            weights="tensorflow/keras-applications/mobilenet/mobilenet_1_0_224_tf.h5",
            parameters=4_253_864,
        ),
        _pooled(
            "mobilenet_v3_small",
            "MobileNetV3Small",
            module="mobilenet_v3",
            preprocessing="none",
            taps={"avg_pool": 576},
            stage=("block10", "expanded_conv_10_expand"),
            weights="tensorflow/keras-applications/mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float.h5",
            digest="8768d4c2e7dee89b9d02b2d03d65d862",
            parameters=2_554_968,
        ),
        _pooled(
            "mobilenet_v3_large",
            "MobileNetV3Large",
            module="mobilenet_v3",
            preprocessing="none",
            taps={"avg_pool": 960},
            stage=("block14", "expanded_conv_14_expand"),
            weights="tensorflow/keras-applications/mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float.h5",
            digest="59e551e166be033d707958cf9e29a6a7",
            parameters=5_507_432,
        ),
        _pooled(
            "resnet50",
            "ResNet50",
            module="resnet",
            preprocessing="caffe",
            taps={"avg_pool": 2048},
            stage=("conv5", "conv5_block1_1_conv"),
            weights="tensorflow/keras-applications/resnet/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
            digest="2cb95161c43110f7111970584f804107",
            parameters=25_636_712,
        ),
        _pooled(
            "resnet101",
            "ResNet101",
            module="resnet",
            preprocessing="caffe",
            taps={"avg_pool": 2048},
            stage=("conv5", "conv5_block1_1_conv"),
            weights="tensorflow/keras-applications/resnet/resnet101_weights_tf_dim_ordering_tf_kernels.h5",
            digest="f1aeb4b969a6efcfb50fad2f0c20cfc5",
            parameters=44_707_176,
        ),
        _pooled(
            "resnet152",
            "ResNet152",
            module="resnet",
            preprocessing="caffe",
            taps={"avg_pool": 2048},
            stage=("conv5", "conv5_block1_1_conv"),
            weights="tensorflow/keras-applications/resnet/resnet152_weights_tf_dim_ordering_tf_kernels.h5",
            digest="100835be76be38e30d865e96f2aaae62",
            parameters=60_419_944,
        ),
        _pooled(
            "resnet50_v2",
            "ResNet50V2",
            module="resnet_v2",
            preprocessing="tf",
            taps={"avg_pool": 2048},
            stage=("conv5", "conv5_block1_preact_bn"),
            weights="tensorflow/keras-applications/resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels.h5",
            digest="3ef43a0b657b3be2300d5770ece849e0",
            parameters=25_613_800,
        ),
        _pooled(
            "resnet101_v2",
            "ResNet101V2",
            module="resnet_v2",
            preprocessing="tf",
            taps={"avg_pool": 2048},
            stage=("conv5", "conv5_block1_preact_bn"),
            weights="tensorflow/keras-applications/resnet/resnet101v2_weights_tf_dim_ordering_tf_kernels.h5",
            digest="6343647c601c52e1368623803854d971",
            parameters=44_675_560,
        ),
        _pooled(
            "resnet152_v2",
            "ResNet152V2",
            module="resnet_v2",
            preprocessing="tf",
            taps={"avg_pool": 2048},
            stage=("conv5", "conv5_block1_preact_bn"),
            weights="tensorflow/keras-applications/resnet/resnet152v2_weights_tf_dim_ordering_tf_kernels.h5",
            digest="a49b44d1979771252814e80f8ec446f9",
            parameters=60_380_648,
        ),
        _pooled(
            "inception_v3",
            "InceptionV3",
            module="inception_v3",
            side=299,
            preprocessing="tf",
            taps={"avg_pool": 2048},
            stage=("mixed10", "mixed9"),
            weights="tensorflow/keras-applications/inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels.h5",
            digest="9a0d58056eeedaa3f26cb7ebd46da564",
            parameters=23_851_784,
        ),
        _pooled(
            "inception_resnet_v2",
            "InceptionResNetV2",
            module="inception_resnet_v2",
            side=299,
            preprocessing="tf",
            taps={"avg_pool": 1536},
            stage=("block8", "mixed_7a"),
            weights="tensorflow/keras-applications/inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels.h5",
            digest="e693bd0210a403b3192acc6073ad2e96",
            parameters=55_873_736,
        ),
        _pooled(
            "xception",
            "Xception",
            module="xception",
            side=299,
            preprocessing="tf",
            taps={"avg_pool": 2048},
            stage=("block14", "block14_sepconv1"),
            weights="tensorflow/keras-applications/xception/xception_weights_tf_dim_ordering_tf_kernels.h5",
            digest="0a58e3b7378bc2990ea3b43d5981f1f6",
            parameters=22_910_480,
        ),
        _pooled(
            "densenet121",
            "DenseNet121",
            module="densenet",
            preprocessing="torch",
            taps={"avg_pool": 1024},
            stage=("conv5", "conv5_block1_0_bn"),
            weights="tensorflow/keras-applications/densenet/densenet121_weights_tf_dim_ordering_tf_kernels.h5",
            digest="9d60b8095a5708f2dcce2bca79d332c7",
            parameters=8_062_504,
        ),
        _pooled(
            "densenet169",
            "DenseNet169",
            module="densenet",
            preprocessing="torch",
            taps={"avg_pool": 1664},
            stage=("conv5", "conv5_block1_0_bn"),
            weights="tensorflow/keras-applications/densenet/densenet169_weights_tf_dim_ordering_tf_kernels.h5",
            digest="d699b8f76981ab1b30698df4c175e90b",
            parameters=14_307_880,
        ),
        _pooled(
            "densenet201",
            "DenseNet201",
            module="densenet",
            preprocessing="torch",
            taps={"avg_pool": 1920},
            stage=("conv5", "conv5_block1_0_bn"),
            weights="tensorflow/keras-applications/densenet/densenet201_weights_tf_dim_ordering_tf_kernels.h5",
            digest="1ceb130c1ea1b78c3bf6114dbdfd8807",
            parameters=20_242_984,
        ),
        _pooled(
            "nasnet_mobile",
            "NASNetMobile",
            module="nasnet",
            preprocessing="tf",
            taps={"avg_pool": 1056},
            stage=("cell12", "normal_concat_11"),
            weights="tensorflow/keras-applications/nasnet/NASNet-mobile.h5",
            digest="020fb642bf7360b370c678b08e0adf61",
            weights_file="nasnet_mobile.h5",
            parameters=5_326_716,
        ),
        _pooled(
            "nasnet_large",
            "NASNetLarge",
            module="nasnet",
            side=331,
            preprocessing="tf",
            taps={"avg_pool": 4032},
            stage=("cell18", "normal_concat_17"),
            weights="tensorflow/keras-applications/nasnet/NASNet-large.h5",
            digest="11577c9a518f0070763c2b964a382f17",
            weights_file="nasnet_large.h5",
            parameters=88_949_818,
        ),
        _pooled(
            "efficientnet_b0",
            "EfficientNetB0",
            module="efficientnet",
            preprocessing="none",
            taps={"avg_pool": 1280},
            stage=("block7", "block7a_expand_conv"),
            weights="keras-applications/efficientnetb0.h5",
            digest="902e53a9f72be733fc0bcb005b3ebbac",
            imagenet_by_name_only=True,
            parameters=5_330_571,
        ),
        _pooled(
            "efficientnet_b1",
            "EfficientNetB1",
            module="efficientnet",
            side=240,
            preprocessing="none",
            taps={"avg_pool": 1280},
            stage=("block7", "block7a_expand_conv"),
            weights="keras-applications/efficientnetb1.h5",
            digest="1d254153d4ab51201f1646940f018540",
            imagenet_by_name_only=True,
            parameters=7_856_239,
        ),
        _pooled(
            "efficientnet_b2",
            "EfficientNetB2",
            module="efficientnet",
            side=260,
            preprocessing="none",
            taps={"avg_pool": 1408},
            stage=("block7", "block7a_expand_conv"),
            weights="keras-applications/efficientnetb2.h5",
            digest="b15cce36ff4dcbd00b6dd88e7857a6ad",
            imagenet_by_name_only=True,
            parameters=9_177_569,
        ),
        _pooled(
            "efficientnet_b3",
            "EfficientNetB3",
            module="efficientnet",
            side=300,
            preprocessing="none",
            taps={"avg_pool": 1536},
            stage=("block7", "block7a_expand_conv"),
            weights="keras-applications/efficientnetb3.h5",
            digest="ffd1fdc53d0ce67064dc6a9c7960ede0",
            imagenet_by_name_only=True,
            parameters=12_320_535,
        ),
        _pooled(
            "efficientnet_b4",
            "EfficientNetB4",
            module="efficientnet",
            side=380,
            preprocessing="none",
            taps={"avg_pool": 1792},
            stage=("block7", "block7a_expand_conv"),
            weights="keras-applications/efficientnetb4.h5",
            digest="18c95ad55216b8f92d7e70b3a046e2fc",
            imagenet_by_name_only=True,
            parameters=19_466_823,
        ),
        _pooled(
            "efficientnet_b5",
            "EfficientNetB5",
            module="efficientnet",
            side=456,
            preprocessing="none",
            taps={"avg_pool": 2048},
            stage=("block7", "block7a_expand_conv"),
            weights="keras-applications/efficientnetb5.h5",
            digest="ace28f2a6363774853a83a0b21b9421a",
            imagenet_by_name_only=True,
            parameters=30_562_527,
        ),
        _pooled(
            "efficientnet_b6",
            "EfficientNetB6",
            module="efficientnet",
            side=528,
            preprocessing="none",
            taps={"avg_pool": 2304},
            stage=("block7", "block7a_expand_conv"),
            weights="keras-applications/efficientnetb6.h5",
            digest="165f6e37dce68623721b423839de8be5",
            imagenet_by_name_only=True,
            parameters=43_265_143,
        ),
        _pooled(
            "efficientnet_b7",
            "EfficientNetB7",
            module="efficientnet",
            side=600,
            preprocessing="none",
            taps={"avg_pool": 2560},
            stage=("block7", "block7a_expand_conv"),
            weights="keras-applications/efficientnetb7.h5",
            digest="8c03f828fec3ef71311cd463b6759d99",
            imagenet_by_name_only=True,
            parameters=66_658_687,
        ),
        _pooled(
            "efficientnet_v2_b0",
            "EfficientNetV2B0",
            module="efficientnet_v2",
            preprocessing="none",
            taps={"avg_pool": 1280},
            stage=("block6", "block6a_expand_conv"),
            weights="tensorflow/keras-applications/efficientnet_v2/efficientnetv2-b0.h5",
            digest="21ecbf6da12460d5c40bb2f29ceb2188",
            parameters=7_200_312,
        ),
        _pooled(
            "efficientnet_v2_b1",
            "EfficientNetV2B1",
            module="efficientnet_v2",
            side=240,
            preprocessing="none",
            taps={"avg_pool": 1280},
            stage=("block6", "block6a_expand_conv"),
            weights="tensorflow/keras-applications/efficientnet_v2/efficientnetv2-b1.h5",
            digest="069f0534ff22adf035c89e2d9547a9dc",
            parameters=8_212_124,
        ),
        _pooled(
            "efficientnet_v2_b2",
            "EfficientNetV2B2",
            module="efficientnet_v2",
            side=260,
            preprocessing="none",
            taps={"avg_pool": 1408},
            stage=("block6", "block6a_expand_conv"),
            weights="tensorflow/keras-applications/efficientnet_v2/efficientnetv2-b2.h5",
            digest="424e49f28180edbde1e94797771950a7",
            parameters=10_178_374,
        ),
        _pooled(
            "efficientnet_v2_b3",
            "EfficientNetV2B3",
            module="efficientnet_v2",
            side=300,
            preprocessing="none",
            taps={"avg_pool": 1536},
            stage=("block6", "block6a_expand_conv"),
            weights="tensorflow/keras-applications/efficientnet_v2/efficientnetv2-b3.h5",
            digest="1f1fc43bd98a6e4fd8fdfd551e02c7a0",
            parameters=14_467_622,
        ),
        _pooled(
            "efficientnet_v2_s",
            "EfficientNetV2S",
            module="efficientnet_v2",
            side=384,
            preprocessing="none",
            taps={"avg_pool": 1280},
            stage=("block6", "block6a_expand_conv"),
            weights="tensorflow/keras-applications/efficientnet_v2/efficientnetv2-s.h5",
            digest="e1d88a8495beba45748fedd0cecbe016",
            parameters=21_612_360,
        ),
        _pooled(
            "efficientnet_v2_m",
            "EfficientNetV2M",
            module="efficientnet_v2",
            side=480,
            preprocessing="none",
            taps={"avg_pool": 1280},
            stage=("block7", "block7a_expand_conv"),
            weights="tensorflow/keras-applications/efficientnet_v2/efficientnetv2-m.h5",
            digest="a3bf6aa3276309f4fc6a34aa114c95cd",
            parameters=54_431_388,
        ),
        _pooled(
            "efficientnet_v2_l",
            "EfficientNetV2L",
            module="efficientnet_v2",
            side=480,
            preprocessing="none",
            taps={"avg_pool": 1280},
            stage=("block7", "block7a_expand_conv"),
            weights="tensorflow/keras-applications/efficientnet_v2/efficientnetv2-l.h5",
            digest="27e6d408b53c7ebc868fefa357689935",
            parameters=119_027_848,
        ),
        _pooled(
            "convnext_tiny",
            "ConvNeXtTiny",
            module="convnext",
            preprocessing="none",
            taps={"avg_pool": 768, "convnext_tiny_head_layernorm": 768},
            stage=("stage3", "convnext_tiny_downsampling_block_2"),
            weights="tensorflow/keras-applications/convnext/convnext_tiny.h5",
            digest="8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
            parameters=28_589_128,
        ),
        _pooled(
            "convnext_small",
            "ConvNeXtSmall",
            module="convnext",
            preprocessing="none",
            taps={"avg_pool": 768, "convnext_small_head_layernorm": 768},
            stage=("stage3", "convnext_small_downsampling_block_2"),
            weights="tensorflow/keras-applications/convnext/convnext_small.h5",
            digest="ce1277d8f1ee5a0ef0e171469089c18f5233860ceaf9b168049cb9263fd7483c",
            parameters=50_223_688,
        ),
        _pooled(
            "convnext_base",
            "ConvNeXtBase",
            module="convnext",
            preprocessing="none",
            taps={"avg_pool": 1024, "convnext_base_head_layernorm": 1024},
            stage=("stage3", "convnext_base_downsampling_block_2"),
            weights="tensorflow/keras-applications/convnext/convnext_base.h5",
            digest="52cbb006d3dadd03f6e095a8ca1aca47aecdd75acb4bc74bce1f5c695d0086e6",
            parameters=88_591_464,
        ),
        _pooled(
            "convnext_large",
            "ConvNeXtLarge",
            module="convnext",
            preprocessing="none",
            taps={"avg_pool": 1536, "convnext_large_head_layernorm": 1536},
            stage=("stage3", "convnext_large_downsampling_block_2"),
            weights="tensorflow/keras-applications/convnext/convnext_large.h5",
            digest="070c5ed9ed289581e477741d3b34beffa920db8cf590899d6d2c67fba2a198a6",
            parameters=197_767_336,
        ),
        _pooled(
            "convnext_xlarge",
            "ConvNeXtXLarge",
            module="convnext",
            preprocessing="none",
            taps={"avg_pool": 2048, "convnext_xlarge_head_layernorm": 2048},
            stage=("stage3", "convnext_xlarge_downsampling_block_2"),
            weights="tensorflow/keras-applications/convnext/convnext_xlarge.h5",
            digest="c1f5ccab661354fc3a79a10fa99af82f0fbf10ec65cb894a3ae0815f17a889ee",
            parameters=350_196_968,
        ),
    )
}
"""The networks of `keras.applications` by name: one row each, tested against Keras."""


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


REGISTRY: Registry[NetworkSpec | ExternalNetwork] = Registry(
    "featurecache.backbones", "backbone", NETWORKS, _accept, "a .keras file, or a folder with a preset of KerasHub"
)
"""The networks of `NETWORKS`, and those that installed packages add."""
