"""The networks that there are, as data: one row each, no framework imported.

Widths and weight files are those of `keras.applications`; `tests/featurecache/backbones` compares them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from featurecache.backbones.protocol import BackboneSpec
from featurecache.errors import UnknownNameError

_STORAGE = "https://storage.googleapis.com"
PRECISIONS = ("float32", "mixed")
DEVICES = ("auto", "cpu", "gpu")
HEAD_ALONE = ""

BGR_MEAN = (103.939, 116.779, 123.68)  # of ImageNet's pixels, as Keras's mode "caffe" has them


@dataclass(frozen=True, slots=True)
class Application:
    """A network of `keras.applications`.

    Parameters
    ----------
    name
        The name it goes by here.
    constructor, module
        The constructor and the module of `keras.applications` that make it and preprocess for it.
    input_size
        Height and width of the input that it was trained with, in pixels.
    preprocessing
        Keras's mode: ``caffe`` (BGR minus the ImageNet mean), ``tf`` (to -1..1), ``none`` (inside the network).
    taps
        The layers that can be tapped, from the input on, to their widths. ``logits`` is the classifier before its
        softmax, ``avg_pool`` the pooled features under it; all others bear Keras's names.
    default_taps
        The taps that are cached if none are named.
    stages
        Where fine-tuning may begin, to the first layer that is trained with all above it; `HEAD_ALONE` for none of
        the network, only what was trained on its features.
    weights_file, weights_url, weights_md5
        The ImageNet weights: file name in Keras's own folder, download address, and MD5 where Keras pins one.
    imagenet_by_name_only
        Whether Keras builds the network differently for its ImageNet weights than for a weight file.
    blocks
        Of a VGG network, the number of convolutions in each block and their channels; of others nothing.
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
        """Return what identifies this network with these weights, taps and precision.

        Raises
        ------
        UnknownNameError
            If a tap or the precision does not exist.
        """
        names = sorted(set(self.default_taps if taps is None else taps))
        for name in names:
            if name not in self.taps:
                raise UnknownNameError(f"tap of {self.name}", name, self.taps)
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        return BackboneSpec(
            name=self.name,
            weights=weights,
            input_size=self.input_size,
            preprocessing=self.preprocessing,
            taps={name: self.taps[name] for name in names},
            precision=precision,
        )

    def stages_below(self, tap: str) -> list[str]:
        """Return the stages that begin at the layer of a tap or below, so that its activations change with them.

        A stage begins at a layer that can be tapped itself, or below all of them.
        """
        order = [HEAD_ALONE, *self.taps]
        reach = order.index(tap)
        return [stage for stage, first in self.stages.items() if first not in order or order.index(first) <= reach]


def application(name: str) -> Application:
    """Return the catalogue's row of this name; raise `UnknownNameError` if there is none."""
    try:
        return APPLICATIONS[name]
    except KeyError:
        raise UnknownNameError("backbone", name, APPLICATIONS) from None


def _vgg(name: str, constructor: str, convolutions: tuple[int, ...], md5: str) -> Application:
    """Return a VGG network: blocks of 3x3 convolutions, each halved by its pooling layer, then three dense layers."""
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
    return Application(
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


APPLICATIONS: Mapping[str, Application] = {
    row.name: row
    for row in (
        _vgg("vgg16", "VGG16", (2, 2, 3, 3, 3), "64373286793e3c8b2b4e3219cbf3544b"),
        _vgg("vgg19", "VGG19", (2, 2, 4, 4, 4), "cbe5617147190e668d6c5d5026f83318"),
        Application(
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
        Application(
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
        Application(
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
        Application(
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
