"""Services as processes of their own: this project's, and others with the same Keras model."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from scripts.bench.worker import held_back

RIVALS_PYTHON = "BENCH_RIVALS_PYTHON"  # the variable that lists interpreters of other environments with the rivals
_START_SECONDS, _END_SECONDS = 300, 30
_FROM_THE_END = -2_000  # the end of a failed service's output
_FOLDER = Path(__file__).with_name("rivals")


class Service(AbstractContextManager["Service"]):
    """A service that runs until the end of a ``with`` block.

    Parameters
    ----------
    command
        Starts it.
    port
        Where it listens.
    is_ready
        Whether it answers already; called again and again, and may raise `OSError`.
    folder
        The folder in which it starts.
    environment
        Variables for it.

    Raises
    ------
    RuntimeError
        If it ends or does not get ready.
    """

    def __init__(
        self,
        command: list[str],
        port: int,
        is_ready: Callable[[int], bool],
        *,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.port = port
        self._chatter = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed at the exit
        kept = {name: value for name, value in os.environ.items() if name not in held_back()}
        quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdout=self._chatter,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=kept | quiet | (environment or {}),
            start_new_session=True,  # some services have processes of their own
        )
        end = time.monotonic() + _START_SECONDS
        try:
            while not self._answers(is_ready):
                self._require_alive(end)
                time.sleep(0.1)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _require_alive(self, end: float) -> None:
        """Raise an error if the process has ended, or the time to start has."""
        if self._process.poll() is not None or time.monotonic() > end:
            self._chatter.seek(0)
            raise RuntimeError(f"{self._process.args!r} does not get ready: {self._chatter.read()[_FROM_THE_END:]}")

    def _answers(self, is_ready: Callable[[int], bool]) -> bool:
        with suppress(OSError):
            return is_ready(self.port)
        return False

    def ask(self, path: str, body: bytes | dict[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON that a route of this project's service answers."""
        return json.loads(self.text(path, json.dumps(body).encode() if isinstance(body, dict) else body))

    def text(self, path: str, body: bytes | None = None) -> str:
        """Return the text that a route answers."""
        kind = "application/json" if body and body.startswith(b"{") else "application/octet-stream"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            text: str = answer.read().decode()
        return text

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        with suppress(ProcessLookupError):  # also processes that outlive the first one
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._chatter.close()


def featurecache(*arguments: str | Path) -> Service:
    """Start ``featurecache serve`` and wait until it is ready."""
    port = _free_port()
    command = [sys.executable, "-m", "featurecache", "serve", *map(str, arguments)]
    return Service([*command, "--port", str(port), "--weights", "random:0"], port, _says_ok("/v2/health/ready"))


@dataclass(frozen=True, slots=True)
class Rival:
    """Another way to serve the same Keras model.

    Parameters
    ----------
    package
        What it needs.
    body, path
        How its requests look; see `scripts.bench.load.Order`.
    start
        Starts it: interpreter, model and a port to a service.
    """

    package: str
    body: str
    path: str
    start: Callable[[str, Path, int], Service]


def _by_hand(way: str) -> Callable[[str, Path, int], Service]:
    return lambda python, model, port: Service(
        [python, str(_FOLDER / "by_hand.py"), str(model), str(port), way], port, _says_ok("/docs")
    )


def _litserve(python: str, model: Path, port: int) -> Service:
    return Service([python, str(_FOLDER / "with_litserve.py"), str(model), str(port)], port, _says_ok("/health"))


def _bentoml(python: str, model: Path, port: int) -> Service:
    command = [python, "-m", "bentoml", "serve", "with_bentoml:Service", "--port", str(port)]
    variables = {"MODEL": str(model), "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(model.parent / "bentoml")}
    return Service(command, port, _says_ok("/readyz"), folder=_FOLDER, environment=variables)


def _mlserver(python: str, model: Path, port: int) -> Service:
    folder = model.parent / "mlserver"
    folder.mkdir(exist_ok=True)
    shutil.copy(model, folder / "model.keras")
    shutil.copy(_FOLDER / "with_mlserver.py", folder)
    settings: dict[str, Any] = {"http_port": port, "grpc_port": _free_port(), "metrics_port": _free_port()}
    (folder / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
    model_settings = {"name": "model", "implementation": "with_mlserver.Runtime"}
    batching = {"max_batch_size": 32, "max_batch_time": 0.005}
    (folder / "model-settings.json").write_text(json.dumps(model_settings | batching))
    command = [python, "-c", "from mlserver.cli import main; main()", "start", "."]
    return Service(command, port, _says_ok("/v2/models/model/ready"), folder=folder, environment={"PYTHONPATH": "."})


RIVALS = {
    "fastapi by hand, async": Rival("fastapi", "form", "/predict", _by_hand("async")),
    "fastapi by hand, threads": Rival("fastapi", "form", "/predict", _by_hand("threads")),
    "litserve": Rival("litserve", "form", "/predict", _litserve),
    "bentoml": Rival("bentoml", "form", "/predict", _bentoml),
    "mlserver": Rival("mlserver", "protocol", "/v2/models/model/infer", _mlserver),
}
BY_HAND = ("fastapi by hand, async", "fastapi by hand, threads")


def start_rival(name: str, model: Path) -> tuple[Service | None, str]:
    """Start another service; return it and its version, or None and why it is left out."""
    package = RIVALS[name].package
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    for python in os.environ.get(RIVALS_PYTHON, sys.executable).split(os.pathsep):
        found = subprocess.run([python, "-c", code, package], capture_output=True, text=True, check=False)  # noqa: S603
        if not found.returncode:
            return RIVALS[name].start(python, model, _free_port()), f"{package} {found.stdout.strip()}"
    return None, f"not installed: pip install {package}"


def _says_ok(path: str) -> Callable[[int], bool]:
    def asked(port: int) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            answer.read()
        return True

    return asked


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
