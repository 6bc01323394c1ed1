"""The options of an extraction, each declared once: name, default, range or choices, and help text.

`featurecache.extract`, `featurecache.why` and the command line take them from here. This module imports no library,
so that ``featurecache --help`` answers at once.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from featurecache.errors import OptionError, UnknownNameError

# The first choice is the default.
PRECISIONS: Final = ("float32", "tf32", "mixed")
DTYPES: Final = ("float32", "float16")
RESIZES: Final = ("squash", "crop")
FILTERS: Final = ("bilinear", "nearest", "bicubic", "lanczos")
FRAMES: Final = ("first", "all")
DEVICES: Final = ("auto", "cpu", "gpu")
ENGINES: Final = ("auto", "keras", "numba", "openvino")

PREPROCESSING: Final = ("caffe", "tf", "torch", "unit", "none", "inside")
"""The modes of preprocessing; see `featurecache.NetworkSpec`."""

VIEW_KINDS: Final = ("crop", "flip", "color")
"""How augmented views differ from their image; see `Views`."""

OWN_MODEL_PREFIX, OWN_MODEL_SUFFIX = "keras:", ".keras"
"""What a value of ``--backbone`` begins or ends with that is a path; see `own_model_path`."""

NO_VIEWS: Final = "none"
"""The value of ``views`` for images without views."""

_MOST_VIEWS = 100

LARGEST_SIDE: Final = 4096
"""The largest height or width of a network's input in pixels."""

LOCAL: Final = "local"
"""The address of a cluster on this machine, which is started for a run and ended with it."""

PIXEL_LIMIT: Final = 1_000_000_000
"""The largest ``max_pixels``; an image of so many pixels takes 4 GB or more of memory while it is decoded."""

MAX_PIXELS: Final = 50_000_000
"""The default of ``max_pixels``."""


@dataclass(frozen=True, slots=True)
class Option:
    """The declaration of an option, in addition to its name, type and default value.

    Parameters
    ----------
    help
        The help text of the command line.
    kind
        The noun that error messages use for an unknown choice; the option's name if empty.
    choices
        The allowed values, if they can be listed.
    low, high
        The smallest and the largest allowed number.
    word
        A word that is allowed instead of a number.
    word_help
        The meaning of the word, for the help text.
    metavar
        How the help text shows a value that ``check`` accepts.
    fallback
        The value if the option is not given and no cache or unfinished run provides it.
    shown
        The default as shown in the help text; the default itself if empty.
    check
        Called with a value that is given; raises `OptionError` if it is not valid.
    """

    help: str
    kind: str = ""
    choices: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    word: str = ""
    word_help: str = ""
    metavar: str = ""
    fallback: Any = None
    shown: str = ""
    check: Callable[[Any], object] | None = None


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """Options, checked when they are built.

    Raises
    ------
    UnknownNameError
        If a value is not one of the option's choices.
    OptionError
        If a number is out of its range.
    """

    def __post_init__(self) -> None:
        for name, option in declared(self).items():
            _check(name, option, getattr(self, name), word=option.word)


GroupT = TypeVar("GroupT", bound=OptionGroup)


def declared(group: type[OptionGroup] | OptionGroup) -> dict[str, Option]:
    """Return the declarations of a group of options, by name, in order."""
    return {item.name: item.metadata["option"] for item in fields(group)}


def check_without_words(group: type[OptionGroup], **values: object) -> None:
    """Check values of options as `OptionGroup` does, but refuse words such as ``auto`` in place of a number.

    Raises
    ------
    UnknownNameError, OptionError
        As `OptionGroup`.
    """
    for name, option in declared(group).items():
        _check(name, option, values.get(name), word="")


def _check(name: str, option: Option, value: Any, *, word: str) -> None:  # noqa: ANN401 - an option has any type
    """Raise an error unless a value is None, ``word``, or in the range of its option."""
    if value is None or (word and value == word):
        return
    if option.choices and value not in option.choices:
        raise UnknownNameError(option.kind or name, value, option.choices)
    if option.check:
        option.check(value)
    if option.low is not None and option.high is not None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not (is_whole and option.low <= value <= option.high):
            words = f", or {word!r}" if word else ""
            raise OptionError(
                f"{name} is {value!r}; expected a whole number from {option.low} to {option.high:,}{words}"
            )


def completed(options: GroupT, known: Mapping[str, object]) -> GroupT:
    """Replace every None by the value in ``known``, or else by the option's fallback."""
    missing = {name: known.get(name, option.fallback) for name, option in declared(options).items()}
    return replace(options, **{name: value for name, value in missing.items() if getattr(options, name) is None})


def _declare(text: str, **declaration: Any) -> dict[str, Option]:
    """Return a field's metadata."""
    return {"option": Option(text, **declaration)}


def _inherited(text: str, fallback: str | None, *, shown: str = "", **declaration: Any) -> dict[str, Option]:
    """Return the metadata of an option whose value comes from the cache or unfinished run if it is not given."""
    return _declare(text, fallback=fallback, shown=f"the cache's, else {shown or fallback}", **declaration)


def read_size(text: str) -> tuple[int, int]:
    """Return height and width from text such as ``"224"`` or ``"240x320"``.

    Raises
    ------
    OptionError
        If the text has another form, or a number is out of range.
    """
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text, re.ASCII) if isinstance(text, str) else None
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(1 <= side <= LARGEST_SIDE for side in size):
        raise OptionError(
            f"input_size is {text!r}; expected height and width, such as 224 or 240x320, from 1 to {LARGEST_SIDE:,}"
        )
    return size


@dataclass(frozen=True, slots=True)
class Views:
    """How many augmented views images get besides themselves, and how these differ.

    Parameters
    ----------
    count
        Views of each image, from 1 to 100.
    kinds
        Some of `VIEW_KINDS`, in their order: ``"crop"`` shows a part of the image, ``"flip"`` mirrors every second
        view, ``"color"`` changes brightness, contrast and saturation.

    Examples
    --------
    >>> views = Views.read("5:flip,crop")
    >>> views, str(views)
    (Views(count=5, kinds=('crop', 'flip')), '5:crop,flip')
    """

    count: int
    kinds: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Views | None":
        """Return the views that a text such as ``"5:crop,flip"`` names, or None for ``"none"``.

        Raises
        ------
        OptionError
            If the text has another form, or views would be equal.
        """
        if text == NO_VIEWS:
            return None
        found = re.fullmatch(r"([1-9][0-9]{0,2}):([a-z]+(?:,[a-z]+)*)", text) if isinstance(text, str) else None
        count, kinds = (int(found[1]), found[2].split(",")) if found else (0, [])
        if not 1 <= count <= _MOST_VIEWS or len(set(kinds)) < len(kinds) or not set(kinds) <= set(VIEW_KINDS):
            raise OptionError(
                f"views is {text!r}; expected a number from 1 to {_MOST_VIEWS}, a colon and some of "
                f"{', '.join(VIEW_KINDS)}, such as 5:{','.join(VIEW_KINDS)}, or {NO_VIEWS}"
            )
        if kinds == ["flip"] and count > 1:
            raise OptionError(
                f"views is {text!r}, and an image has one mirror image; take 1:flip, or add crop or color"
            )
        return cls(count, tuple(kind for kind in VIEW_KINDS if kind in kinds))

    def __str__(self) -> str:
        return f"{self.count}:{','.join(self.kinds)}"


@dataclass(frozen=True, slots=True)
class NetworkOptions(OptionGroup):
    """Options that determine the features and belong to the recipe; None means the cache's value, or the default."""

    backbone: str | None = field(
        default=None,
        metadata=_inherited(
            "The network: a name that featurecache backbones lists, a .keras file, or a folder with a preset.", "vgg16"
        ),
    )
    weights: str | None = field(
        default=None, metadata=_inherited("imagenet, the path of a weight file, or random:SEED.", "imagenet")
    )
    taps: Iterable[str] | None = field(
        default=None, metadata=_inherited("Layers to keep, separated by commas.", None, shown="the network's own")
    )
    preprocess: str | None = field(
        default=None,
        metadata=_inherited(
            "How pixels are prepared for a model of your own: caffe, tf, torch, unit, none or inside.",
            None,
            shown="inside",
            kind="preprocessing",
            choices=PREPROCESSING,
        ),
    )
    input_size: str | None = field(
        default=None,
        metadata=_inherited(
            "Height and width of the images for a model of your own that takes any size.",
            None,
            shown="the model's",
            metavar="N|HxW",
            check=read_size,
        ),
    )
    precision: str | None = field(
        default=None,
        metadata=_inherited(
            "float32; tf32: factors of 10 bits, on a GPU; mixed: float16 on a GPU, bfloat16 on a CPU that has it.",
            PRECISIONS[0],
            choices=PRECISIONS,
        ),
    )
    dtype: str | None = field(
        default=None,
        metadata=_inherited("Data type of the stored features: float32 or float16.", DTYPES[0], choices=DTYPES),
    )


@dataclass(frozen=True, slots=True)
class DecodeOptions(OptionGroup):
    """How image files become pixels: ``resize`` and ``filter`` belong to the recipe, the others to the provenance."""

    resize: str | None = field(
        default=None,
        metadata=_inherited(
            "squash: the whole image; crop: its centre.", RESIZES[0], kind="resize rule", choices=RESIZES
        ),
    )
    filter: str | None = field(
        default=None, metadata=_inherited("bilinear, nearest, bicubic or lanczos.", FILTERS[0], choices=FILTERS)
    )
    max_pixels: int | None = field(
        default=None,
        metadata=_declare(
            "A larger image is a failure.",
            low=1,
            high=PIXEL_LIMIT,
            fallback=MAX_PIXELS,
            shown=f"{MAX_PIXELS}, or the cache's if it is larger",
        ),
    )
    views: str | None = field(
        default=None,
        metadata=_inherited(
            "Augmented views of each training image: their number, and some of crop, flip and color, such as "
            "5:crop,flip.",
            None,
            shown=NO_VIEWS,
            metavar="N:KINDS|none",
            check=Views.read,
        ),
    )


@dataclass(frozen=True, slots=True)
class ImageOptions(OptionGroup):
    """How the list of images is read."""

    root: Path | None = field(
        default=None,
        metadata=_declare("The folder or archive that a table's paths are relative to.", shown="the table's"),
    )
    label_from_name: bool = field(default=False, metadata=_declare("Take labels from names such as cat.123.jpg."))
    path_column: str | None = field(default=None, metadata=_declare("A table's column of paths.", shown="path"))
    label_column: str | None = field(default=None, metadata=_declare("A table's column of labels.", shown="label"))
    split_column: str | None = field(default=None, metadata=_declare("A table's column of splits.", shown="split"))
    frames: str | None = field(
        default=None,
        metadata=_declare(
            "all: each frame of an animation and each page of a TIFF file is an image; first: the first one.",
            kind="choice of frames",
            choices=FRAMES,
            shown="the cache's, else first",
        ),
    )
    class_order: str | None = field(
        default=None,
        metadata=_declare(
            "Order of the classes: name, natural (2 before 10), or a text file with one class per line.",
            shown="the cache's, else name",
        ),
    )


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One of several parts of the images of a manifest, by content: files with the same bytes are in the same part.

    Parameters
    ----------
    number
        Which part it is, from 1 on.
    of
        The number of parts.

    Examples
    --------
    >>> part = ImagePart.read("2/4")
    >>> part, str(part)
    (ImagePart(number=2, of=4), '2/4')
    >>> part.holds("00000000000000fd" + 48 * "0")
    True
    """

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the part that a text such as ``"2/4"`` names; raise `OptionError` if it names none."""
        found = re.fullmatch("([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text) if isinstance(text, str) else None
        if not found or int(found[1]) > int(found[2]):
            raise OptionError(f"part is {text!r}; expected two whole numbers with a slash, from 1/N to N/N, as 2/4")
        return cls(int(found[1]), int(found[2]))

    def holds(self, sha256: str) -> bool:
        """Whether the content with this hash is in this part."""
        return int(sha256[:16], 16) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True, slots=True)
class RunOptions(OptionGroup):
    """How a run computes; apart from rounding, features do not depend on these options."""

    batch_size: int | Literal["auto"] | None = field(
        default=None,
        metadata=_declare(
            "Images per forward pass.",
            low=1,
            high=4096,
            word="auto",
            word_help="the fastest size on this machine",
            shown="32, or 64 with numba",
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=_declare(
            "Threads that read and decode images; with --cluster, workers.",
            low=1,
            high=1024,
            shown="one per processor; as many workers as there is room for",
        ),
    )
    device: str = field(default=DEVICES[0], metadata=_declare("auto, cpu or gpu.", choices=DEVICES))
    engine: str = field(
        default=ENGINES[0],
        metadata=_declare(
            "keras, openvino (CPU), numba (VGG on a CPU), or auto: Keras on a GPU, else the cache's or the fastest.",
            choices=ENGINES,
        ),
    )
    part_rows: int | None = field(
        default=None,
        metadata=_declare(
            "Rows in a part at most: the cache is an index and a folder of parts, and an update adds parts.",
            low=1,
            high=1_000_000_000,
            shown="the cache's; else one file",
        ),
    )
    part: str | None = field(
        default=None,
        metadata=_declare(
            "Only the I-th of N parts of the images, by content; merge joins the caches of all parts.",
            shown="the cache's, else all images",
            metavar="I/N",
            check=ImagePart.read,
        ),
    )
    rehash: bool = field(default=False, metadata=_declare("Read unchanged files again, too."))
    retry_failures: bool = field(default=False, metadata=_declare("Decode again images that failed before."))
    replace: bool = field(
        default=False,
        metadata=_declare("Replace a cache of another recipe; options that are not given get their defaults."),
    )


@dataclass(frozen=True, slots=True)
class ClusterOptions(OptionGroup):
    """Whether, and how, the workers of a Ray cluster compute; apart from rounding, features do not depend on it."""

    cluster: str | None = field(
        default=None,
        metadata=_declare(
            "Compute with the workers of a Ray cluster: the address of its head, or nothing for one that is started "
            "here. --workers is their number then."
        ),
    )
    gpus_per_worker: int | None = field(
        default=None,
        metadata=_declare("GPUs of a worker.", low=0, high=64, shown="1 where the cluster has GPUs"),
    )
    cpus_per_worker: int | None = field(
        default=None,
        metadata=_declare("Processors of a worker.", low=1, high=1024, shown="4, or an equal share for each GPU"),
    )
    mixed_workers: bool = field(
        default=False,
        metadata=_declare("Record that workers differ in engine, versions or processor, instead of refusing them."),
    )

    def __post_init__(self) -> None:
        OptionGroup.__post_init__(self)
        if self.cluster is None:
            for item in fields(self):
                if getattr(self, item.name) != item.default:
                    raise OptionError(f"{item.name} is for workers of a cluster; leave it out, or give cluster as well")


@dataclass(frozen=True, slots=True)
class ServiceOptions(OptionGroup):
    """Bounds and times of the head service, `heads.serve`; MB are 1,000,000 bytes."""

    host: str = field(default="127.0.0.1", metadata=_declare("The address to listen on."))
    port: int = field(default=8000, metadata=_declare("The port to listen on; 0 takes a free one.", low=0, high=65535))
    batch_size: int | None = field(
        default=None,
        metadata=_declare("Images per forward pass, at most.", low=1, high=4096, shown="32, or 64 with numba"),
    )
    max_delay_ms: int = field(
        default=5, metadata=_declare("How long an image waits for others that are being decoded.", low=0, high=10_000)
    )
    queue_images: int | None = field(
        default=None,
        metadata=_declare(
            "Images that may wait for a pass; beyond it 429.", low=1, high=1_000_000, shown="by the network's rate"
        ),
    )
    queue_mb: int = field(
        default=256, metadata=_declare("Size of all requests in progress; beyond it 429.", low=1, high=1_000_000)
    )
    request_mb: int = field(default=64, metadata=_declare("Size of one request; beyond it 413.", low=1, high=1_000_000))
    timeout: int = field(
        default=30, metadata=_declare("Seconds until a request is answered or fails.", low=1, high=86_400)
    )
    grace: int = field(
        default=25, metadata=_declare("Seconds for accepted requests after SIGTERM or Ctrl-C.", low=0, high=86_400)
    )
    connections: int = field(
        default=1000,
        metadata=_declare("Open connections; beyond it the oldest silent one is closed.", low=1, high=1_000_000),
    )
    content_cache_mb: int = field(
        default=256, metadata=_declare("Memory for features of images that were seen.", low=0, high=1_000_000)
    )
    content_cache_file_mb: int = field(
        default=1024,
        metadata=_declare("Bound of the file of features of images that were seen.", low=1, high=1_000_000),
    )
