"""The images in the body of a request: the bytes of one image, or a form with many files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from featurecache.text import printable
from heads.service.answering import ImageFile
from heads.service.errors import RequestError
from heads.service.waiting_room import LARGEST

JSON_TYPE = "application/json"
_NAME_LENGTH = 255
_RAW = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})  # the last is what curl sends


Body = TypeVar("Body", bound=BaseModel)


def parsed(model: type[Body], body: bytes) -> Body:
    """Return a body of JSON as a model; raise `RequestError` for the first fault."""
    try:
        return model.model_validate_json(body)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise RequestError(422, "bad_parameter", printable(f"{where}: {first['msg']}")) from None


def images_of(body: bytes, content_type: str) -> list[ImageFile]:
    """Return the images of a body, in order.

    Raises
    ------
    RequestError
        With 415 if the content type is not that of an image or of a form, with 400 if there is no image.
    """
    kind, parameters = parse_options_header(content_type)
    name = kind.decode("latin-1").lower()
    if name == "multipart/form-data":
        return _parts(body, parameters.get(b"boundary", b""))
    if name not in _RAW and not name.startswith("image/"):
        raise RequestError(
            415,
            "wrong_content_type",
            f"the content type is {printable(name)!r}; send the bytes of an image as image/* or "
            "application/octet-stream, or files as multipart/form-data",
        )
    if not body:
        raise RequestError(400, "no_image", "the body is empty; send the bytes of an image file")
    return [ImageFile(body)]


@dataclass
class _Form:
    """What the parser of a form calls, and the files that it has found."""

    files: list[ImageFile] = field(default_factory=list)
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _filename: bytes | None = None
    _is_file: bool = False
    _chunks: list[bytes] = field(default_factory=list)
    is_complete: bool = False

    def begin(self) -> None:
        self._filename, self._is_file, self._chunks = None, False, []

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        for part in self._header:
            part.clear()
        if name.lower() == b"content-disposition":
            _, parameters = parse_options_header(value)
            self._filename = parameters.get(b"filename")
            self._is_file = self._filename is not None

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._chunks.append(data[start:end])

    def end(self) -> None:
        if not self._is_file:
            return
        if len(self.files) == LARGEST:
            raise RequestError(413, "too_many_images", f"the form has more than {LARGEST} files; send fewer at a time")
        name = (self._filename or b"").decode("utf-8", "replace")[:_NAME_LENGTH]
        self.files.append(ImageFile(b"".join(self._chunks), name))

    def complete(self) -> None:
        self.is_complete = True


def _parts(body: bytes, boundary: bytes) -> list[ImageFile]:
    """Return the files of a form; its other fields are ignored."""
    if not boundary:
        raise RequestError(400, "bad_form", "the content type multipart/form-data names no boundary")
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_end": form.complete,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as e:
        raise RequestError(400, "bad_form", f"the form cannot be read: {printable(str(e))}") from e
    if not form.is_complete:
        raise RequestError(400, "bad_form", "the form ends before its last part does")
    if not form.files:
        raise RequestError(400, "no_image", "the form has no file; send images as files, with a file name")
    return form.files
