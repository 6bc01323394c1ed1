"""A web server on this machine that fails as a test says, and a server of S3, for tests of remote images."""

import hashlib
import logging
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web:
    """Files by path, what the next answers to a path are instead, and the requests so far as (method, path).

    A fault is a status, a (status, headers) pair, or one of the words "cut", "silent" and "closed".
    """

    def __init__(self):
        self.files = {}
        self.faults = {}
        self.always = {}
        self.requests = []
        self.headers = []
        self.released = threading.Event()  # ends silent answers
        self.address = ""
        self.tags = True
        self.barrier = None  # what all GETs wait at

    def fault(self, path):
        """Return the next fault of a path; None if it is answered well."""
        left = self.faults.get(path)
        return left.pop(0) if left else self.always.get(path)

    def asked(self, method="GET"):
        return [path for name, path in self.requests if name == method]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        web = self.server.web
        web.requests.append((self.command, self.path))
        web.headers.append(dict(self.headers))
        if web.barrier and with_body:
            web.barrier.wait(60)
        fault = web.fault(self.path)
        data = web.files.get(self.path)
        if fault == "closed":
            self.close_connection = True
            return
        status, headers = fault if isinstance(fault, tuple) else (fault, {})
        if not isinstance(status, int):
            status = 200 if data is not None else 404
        self.send_response(status)
        body = data if status == 200 else b"<html>no image</html>"
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if status == 200 and web.tags:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:16]}"')
        self.end_headers()
        if not with_body:
            return
        if fault in {"cut", "silent"}:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            if fault == "silent":
                web.released.wait(60)
        else:
            self.wfile.write(body)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        """Say nothing: clients go away when they have waited long enough."""


@contextmanager
def serving():
    """Yield a `Web` that is served on this machine."""
    server = QuietServer(("127.0.0.1", 0), Handler)
    server.web = web = Web()
    web.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Faults:
    """A WSGI application before another one, which answers with what a test says: path to statuses."""

    def __init__(self, application):
        self.application = application
        self.faults = {}
        self.always = {}
        self.requests = []

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        self.requests.append((environ["REQUEST_METHOD"], path))
        left = self.faults.get(path)
        fault = left.pop(0) if left else self.always.get(path)
        if isinstance(fault, int):
            code = {503: "SlowDown", 403: "AccessDenied", 500: "InternalError"}.get(fault, "Unknown")
            body = f"<Error><Code>{code}</Code><Message>secret-message</Message></Error>".encode()
            start_response(f"{fault} Fault", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        answer = self.application(environ, start_response)
        if fault == "cut":
            whole = b"".join(answer)
            return [whole[: len(whole) // 2]]
        return answer


@contextmanager
def s3(monkeypatch):
    """Yield a client of an S3 server on this machine, and its `Faults`; the environment leads there."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    faults = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    variables = {"ENDPOINT_URL": address, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    for name, value in (variables | {"DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    try:
        yield client, faults
    finally:
        client.close()
        server.shutdown()
        server.server_close()
        thread.join()
