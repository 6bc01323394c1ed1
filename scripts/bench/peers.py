"""VGG16 in other libraries, with the same weights, for comparison with an extraction.

Each takes decoded pixels, uint8 of shape (n, 224, 224, 3), and returns fc2 and predictions, float32. They are called as
their manuals say, in float32, with the number of threads that they choose themselves.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import BGR_MEAN, find_network
from featurecache.backbones.keras_runtime import load_keras, versions
from featurecache.backbones.vgg import layers_of, weights_of
from featurecache.backbones.weights import resolve_weights
from featurecache.processors import processor_count

NETWORK, WEIGHTS = "vgg16", "random:0"
TAPS = ("fc2", "predictions")
BATCH = 32

Pixels = NDArray[np.uint8]
Features = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Step:
    """A layer with weights: kernel (height, width, inputs, units) or (inputs, units), and whether pooling precedes."""

    name: str
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    pools: bool

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution, not a dense layer."""
        return self.kernel.ndim == 4  # noqa: PLR2004

    @property
    def units_first(self) -> NDArray[np.float32]:
        """The kernel in the layout of most libraries: (units, inputs, height, width) or (units, inputs), contiguous."""
        return np.ascontiguousarray(self.kernel.transpose(3, 2, 0, 1) if self.is_convolution else self.kernel.T)


def steps() -> Iterator[Step]:
    """Yield the layers with weights from the input on; all except the last are followed by a ReLU."""
    row = find_network(NETWORK)
    layers = layers_of(row)
    loaded = weights_of(row, resolve_weights(WEIGHTS, row), len(layers))
    for number, (layer, (kernel, bias)) in enumerate(zip(layers, loaded, strict=True)):
        yield Step(layer.tap, kernel, bias, pools=number > 0 and layer.tap.endswith(("_conv1", "fc1")))


def channels_first(pixels: Pixels) -> NDArray[np.float32]:
    """Return pixels as the network's input: BGR minus the mean, (n, 3, height, width)."""
    mean = np.array(BGR_MEAN, np.float32)[:, np.newaxis, np.newaxis]
    return np.subtract(pixels.transpose(0, 3, 1, 2)[:, ::-1], mean, dtype=np.float32, order="C")


def in_batches(pixels: Pixels) -> list[Pixels]:
    """Split pixels into batches of the size that all contestants use."""
    return [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]


class KerasByHand:
    """Keras as in its documentation: `load_img`, `preprocess_input` and `predict`."""

    def __init__(self) -> None:
        keras = self._keras = load_keras()
        self.version = f"keras {keras.__version__}, {versions()['backend']}"
        self._whole = keras.applications.VGG16(weights=None)
        weighted = [layer for layer in self._whole.layers if layer.weights]
        for layer, step in zip(weighted, steps(), strict=True):
            layer.set_weights([step.kernel, step.bias])
        fc2 = self._whole.get_layer("fc2").output
        self._to_fc2 = keras.Model(self._whole.inputs, fc2)
        self._both = keras.Model(self._whole.inputs, {"fc2": fc2, "predictions": self._whole.output})

    def forward(self, pixels: Pixels) -> Features:
        """Return both taps; call all models, so that they are compiled."""
        images = self._keras.applications.vgg16.preprocess_input(pixels.astype(np.float32))
        self._predict(self._to_fc2, images)
        self._predict(self._whole, images)
        found: Features = self._predict(self._both, images)
        return found

    def two_passes(self, files: Sequence[Path]) -> None:
        """Predict fc2 with one model and the classes with another."""
        images = self._loaded(files)
        self._predict(self._to_fc2, images)
        self._predict(self._whole, images)

    def one_pass(self, files: Sequence[Path]) -> None:
        """Predict both with a model with two outputs."""
        self._predict(self._both, self._loaded(files))

    def _loaded(self, files: Sequence[Path]) -> NDArray[np.float32]:
        utils, size = self._keras.utils, find_network(NETWORK).input_size
        images = np.stack([utils.img_to_array(utils.load_img(file, target_size=size)) for file in files])
        loaded: NDArray[np.float32] = self._keras.applications.vgg16.preprocess_input(images)
        return loaded

    @staticmethod
    def _predict(model: Any, images: NDArray[np.float32]) -> Any:  # noqa: ANN401 - Keras has no types
        return model.predict(images, batch_size=BATCH, verbose=0)


class PyTorch:
    """PyTorch, channels last, in inference mode."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.version = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        self._layers: list[tuple[str, bool, Any]] = []
        for step in steps():
            inputs, units = step.kernel.shape[-2:]
            convolution = step.is_convolution
            layer: Any = torch.nn.Conv2d(inputs, units, 3, padding=1) if convolution else torch.nn.Linear(inputs, units)
            layer.load_state_dict({"weight": torch.from_numpy(step.units_first), "bias": torch.from_numpy(step.bias)})
            layer = layer.train(mode=False).to(memory_format=torch.channels_last)
            self._layers.append((step.name, step.pools, layer))
        self._mean = torch.tensor(BGR_MEAN)

    def forward(self, pixels: Pixels) -> Features:
        """Return both taps in one pass."""
        torch, found = self._torch, {}
        with torch.inference_mode():
            images = torch.from_numpy(pixels).flip(-1).float() - self._mean
            values = images.permute(0, 3, 1, 2)  # a view: in memory, channels come last
            for name, pools, layer in self._layers:
                if pools:
                    values = torch.nn.functional.max_pool2d(values, 2)
                if name == "fc1":
                    values = values.permute(0, 2, 3, 1).flatten(1)
                values = layer(values)
                found[name] = values = values if name == "logits" else torch.relu_(values)
            return {"fc2": found["fc2"].numpy(), "predictions": torch.softmax(found["logits"], 1).numpy()}


class OnnxRuntime:
    """ONNX Runtime on a graph of the same layers."""

    def __init__(self) -> None:
        import onnxruntime

        self.version = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(_onnx_model(), options, providers=["CPUExecutionProvider"])

    def forward(self, pixels: Pixels) -> Features:
        """Return both taps in one pass."""
        return dict(zip(TAPS, self._session.run(TAPS, {"images": channels_first(pixels)}), strict=True))


def _onnx_model() -> bytes:
    """Return the network in the ONNX format."""
    from onnx import TensorProto, helper, numpy_helper

    node, value = helper.make_node, helper.make_tensor_value_info
    nodes, tensors, below = [], [], "images"
    for step in steps():
        name = step.name
        if step.pools:
            nodes.append(node("MaxPool", [below], [f"{name}_below"], kernel_shape=[2, 2], strides=[2, 2]))
            below = f"{name}_below"
        if name == "fc1":
            nodes.append(node("Transpose", [below], ["channels_last"], perm=[0, 2, 3, 1]))
            nodes.append(node("Flatten", ["channels_last"], ["flatten"], axis=1))
            below = "flatten"
        tensors.append(numpy_helper.from_array(step.units_first, f"{name}_kernel"))
        tensors.append(numpy_helper.from_array(step.bias, f"{name}_bias"))
        how: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4} if step.is_convolution else {"transB": 1}
        kind, out = "Conv" if step.is_convolution else "Gemm", name if name == "logits" else f"{name}_sum"
        nodes.append(node(kind, [below, f"{name}_kernel", f"{name}_bias"], [out], **how))
        if out != name:
            nodes.append(node("Relu", [out], [name]))
        below = name
    nodes.append(node("Softmax", ["logits"], ["predictions"], axis=1))
    inputs = [value("images", TensorProto.FLOAT, ["n", 3, *find_network(NETWORK).input_size])]
    outputs = [value(tap, TensorProto.FLOAT, ["n", find_network(NETWORK).taps[tap]]) for tap in TAPS]
    graph = helper.make_graph(nodes, NETWORK, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized


class NcnnByHand:
    """ncnn: the whole network, image by image, one extractor with a thread per processor."""

    def __init__(self) -> None:
        import ncnn

        self._ncnn = ncnn
        self._net = ncnn.Net()
        self._net.opt.num_threads = processor_count()
        for half in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self._net.opt, half, False)  # with ncnn's defaults dense layers are not float32
        self.version = f"ncnn {ncnn.__version__}, {self._net.opt.num_threads} threads"
        with open(os.memfd_create("weights"), "wb") as file:  # noqa: PTH123 - a file in memory
            lines = _ncnn_layers(file)
            file.flush()
            description = "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""])
            if self._net.load_param_mem(description) or self._net.load_model(f"/proc/self/fd/{file.fileno()}"):
                raise RuntimeError("ncnn does not take the network")

    def forward(self, pixels: Pixels) -> Features:
        """Return both taps."""
        found: dict[str, list[NDArray[np.float32]]] = {tap: [] for tap in TAPS}
        for image in channels_first(pixels):
            extractor = self._net.create_extractor()
            extractor.input("images", self._ncnn.Mat(image))
            for tap, rows in found.items():
                rows.append(np.array(extractor.extract(tap)[1]))
        return {tap: np.stack(rows) for tap, rows in found.items()}


def _ncnn_layers(file: IO[bytes]) -> list[str]:
    """Write the weights in ncnn's format, and return its description of the layers, one line each."""
    height, width = find_network(NETWORK).input_size
    lines, below = [f"Input images 0 1 images 0={width} 1={height} 2=3"], "images"
    for step in steps():
        name, kernel = step.name, step.units_first
        if step.pools:
            lines.append(f"Pooling {name}_below 1 1 {below} {name}_below 0=0 1=2 2=2")
            below = f"{name}_below"
        if name == "fc1":  # ncnn flattens channel by channel
            kernel = np.ascontiguousarray(kernel.reshape(len(kernel), 7, 7, -1).transpose(0, 3, 1, 2))
        options = f"0={len(kernel)} 9={int(name != 'logits')} "
        if step.is_convolution:
            lines.append(f"Convolution {name} 1 1 {below} {name} {options} 1=3 4=1 5=1 6={kernel.size}")
        else:
            lines.append(f"InnerProduct {name} 1 1 {below} {name} {options} 1=1 2={kernel.size}")
        below = name
        for data in (bytes(4), kernel.data, step.bias.data):  # 4 zeros stand for float32
            file.write(data)
    return [*lines, "Softmax predictions 1 1 logits predictions 0=0"]
