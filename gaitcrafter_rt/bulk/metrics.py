"""A run's figures for Prometheus: a text file for the node exporter, and a page on the loopback interface (extra ``metrics``).

Both are told after every block and never asked: a job does not wait for whoever reads them, and does not end when they fail.
"""

from __future__ import annotations

import multiprocessing
import select
import signal
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import InvalidRequestError, MissingExtraError, OutputError
from .interrupts import SIGNALS
from .tally import Snapshot

LOOPBACK = "127.0.0.1"
# A client that says nothing for so long is dropped.
_CLIENT_SECONDS = 2.0


def prometheus() -> ModuleType:
    """The library. Raises MissingExtraError that names the extra."""
    try:
        import prometheus_client
        import prometheus_client.metrics_core
    except ImportError as e:
        raise MissingExtraError.for_extra("metrics", "telling Prometheus", e.name) from e
    return prometheus_client


class Metrics:
    """Snapshots as metrics with the labels ``job`` (the folder) and ``rank``. A collector for a registry of prometheus_client."""

    def __init__(self, job: str, rank: int) -> None:
        self._library = prometheus()
        self._labels = {"job": job, "rank": str(rank)}
        self._snapshot: Snapshot | None = None
        self._began = time.time()
        self.registry = self._library.CollectorRegistry()
        self.registry.register(self)

    def set(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def text(self) -> bytes:
        """The text format, version 0.0.4."""
        return self._library.generate_latest(self.registry)

    def write(self, path: Path) -> None:
        """Replace a file atomically. Raises OutputError."""
        try:
            self._library.write_to_textfile(str(path), self.registry)
        except OSError as e:
            raise OutputError(f"--metrics {path}: {e.strerror or e}") from e

    def describe(self) -> list[Any]:
        """Nothing beforehand: the registry shall not ask for figures when this is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """For the registry."""
        s = self._snapshot
        if s is None:
            return
        gauges = {
            "job_clips": ("Clips of the whole job.", s.total),
            "job_clips_done": ("Clips made by this run, and those in shards that were sealed before it.", s.clips),
            "job_shards": ("Shards of the whole job.", s.shards_total),
            "job_shards_done": ("Shards sealed by this run or before it.", s.shards),
            "run_workers": ("Worker processes of this run.", s.workers),
            "run_clips_per_second": ("Mean rate of this run.", s.rate or 0.0),
            "run_seconds_left": ("Until the job is complete if nobody else works on it.",
                                 float("nan") if s.seconds_left is None else s.seconds_left),
            "run_start_time_seconds": ("When this run began, in seconds since 1970.", self._began),
            "run_last_report_seconds": ("When this was told, in seconds since 1970.", time.time()),
        }  # fmt: skip
        counters = {
            "run_clips_made": ("Clips made by this run, failed ones included.", s.made),
            "run_clips_failed": ("Clips quarantined by this run.", s.failures),
            "run_engine_seconds": ("Seconds in the engine, summed over workers.", s.engine_seconds),
        }
        core = self._library.metrics_core
        for kind, family in ((gauges, core.GaugeMetricFamily), (counters, core.CounterMetricFamily)):
            for name, (text, value) in kind.items():
                metric = family(f"gaitcrafter_{name}", text, labels=list(self._labels))
                metric.add_metric(list(self._labels.values()), value)
                yield metric


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_SECONDS
    server: _Server

    def do_GET(self) -> None:
        found = self.path.split("?")[0] == "/metrics"
        body = self.server.text if found else b"GET /metrics\n"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", self.server.content_type if found else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: standard error belongs to the job."""


class _Server(HTTPServer):
    text = b""
    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class Endpoint:
    """``http://127.0.0.1:PORT/metrics``, served by a process of its own, since a job forks and must have no threads.

    Raises InvalidRequestError for a port outside 0..65535 (0: any that is free), OutputError if it is taken.
    """

    def __init__(self, port: int) -> None:
        if not 0 <= port <= 65535:
            raise InvalidRequestError(f"--metrics-port must lie in 0..65535, got {port}")
        try:
            server = _Server((LOOPBACK, port), _Handler)
        except OSError as e:
            raise OutputError(f"--metrics-port {port}: {e.strerror or e}; choose another one, or 0 for any that is free") from e
        self.url = f"http://{LOOPBACK}:{server.server_address[1]}/metrics"
        context = multiprocessing.get_context("fork")
        theirs, self._pipe = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(server, theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()
        server.socket.close()

    def tell(self, text: bytes) -> None:
        """The newest figures; dropped if the process is busy with a client."""
        try:
            if select.select([], [self._pipe], [], 0)[1]:
                self._pipe.send_bytes(text)
        except OSError:
            pass

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()


def _serve(server: _Server, pipe: Connection, other: Connection) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    other.close()
    server.timeout = 0
    while True:
        ready = wait([pipe, server.socket])
        try:
            # The newest of what gathered while a client was served.
            while pipe.poll():
                server.text = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        if server.socket in ready:
            server.handle_request()
