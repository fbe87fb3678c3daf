"""What a run tells while it is on its way: lines of JSON, a text file and a page for Prometheus. Read by prometheus_client."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from jobs import run
from stub import StubEngine

from gaitcrafter_rt.bulk.tally import Snapshot
from gaitcrafter_rt.cli import reporting
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.cli.reporting import reports
from gaitcrafter_rt.errors import InvalidRequestError, OutputError

MODEL = Path(__file__).parents[1] / "fixtures" / "tiny-walker"


def parse(text: str) -> dict[str, float]:
    """Values by name, the labels checked, by Prometheus' own parser."""
    parser = pytest.importorskip("prometheus_client.parser", reason="the extra 'metrics' is not installed")
    values = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels == {"job": 'a "job"\\\n', "rank": "3"}
            assert family.documentation
            values[sample.name] = sample.value
    return values


def told(fast: Path, **options: object):  # type: ignore[no-untyped-def]
    wanted = {"as_json": False, "metrics": None, "port": None, "out": Path('a "job"\\\n'), "rank": 3, **options}
    return reports(**wanted)  # type: ignore[arg-type]


def test_a_snapshot_knows_rate_and_time_left() -> None:
    s = Snapshot(clips=50, total=100, failures=1, shards=2, shards_total=4, workers=2, made=20, seconds=10.0)
    assert (s.rate, s.seconds_left) == (2.0, 25.0)
    early = Snapshot(30, 100, 0, 1, 4, 2)
    assert (early.rate, early.seconds_left) == (None, None)


def test_the_text_file_follows_the_run(fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    monkeypatch.setattr(reporting, "_SECONDS", 0.0)
    file, seen = fast / "job.prom", []

    def look(snapshot: Snapshot) -> None:
        report(snapshot)
        seen.append(parse(file.read_text()))

    with told(fast, metrics=file) as report:
        run(fast / "job", StubEngine(poison={103}), options={"report": look})
    assert [v["gaitcrafter_run_clips_made_total"] for v in seen] == [0, 4, 8, 8, 12, 12]
    last = seen[-1]
    assert last["gaitcrafter_job_clips"] == last["gaitcrafter_job_clips_done"] == 12
    assert (last["gaitcrafter_run_clips_failed_total"], last["gaitcrafter_job_shards_done"]) == (1, 2)
    assert last["gaitcrafter_run_clips_per_second"] > 0
    assert seen[0]["gaitcrafter_run_seconds_left"] != seen[0]["gaitcrafter_run_seconds_left"]  # not known yet
    assert sorted(os.listdir(fast)) == ["job", "job.prom"]


def test_the_last_figures_are_told_however_short_the_run(fast: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    with told(fast, metrics=fast / "job.prom") as report:
        run(fast / "job", options={"report": report})
    assert parse((fast / "job.prom").read_text())["gaitcrafter_job_clips_done"] == 12


def test_the_endpoint_is_on_loopback_alone(fast: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    monkeypatch.setattr(reporting, "_SECONDS", 0.0)
    with told(fast, port=0) as report:
        url = capfd.readouterr().err.split()[-1]
        assert url.startswith("http://127.0.0.1:")
        port = int(url.split(":")[2].split("/")[0])
        # Somebody who connects and says nothing does not hold up the run or the others for long.
        with socket.create_connection(("127.0.0.1", port)):
            run(fast / "job", options={"report": report})
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                assert parse(answer.read().decode())["gaitcrafter_run_clips_made_total"] == 12
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.replace("metrics", "etc/passwd"), timeout=30)
        listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        bound = {parts[1] for parts in listening if parts[3] == "0A" and parts[1].endswith(f":{port:04X}")}
        assert bound == {f"0100007F:{port:04X}"}
        with pytest.raises(OutputError, match="choose another one"), told(fast, port=port):
            pass
    with pytest.raises((ConnectionError, urllib.error.URLError)):
        urllib.request.urlopen(url, timeout=5)


def test_metrics_that_cannot_be_told_stop_nothing_but_the_start(fast: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    with pytest.raises(InvalidRequestError, match="65535"), told(fast, port=65536):
        pass
    with pytest.raises(OutputError, match="--metrics"), told(fast, metrics=fast / "absent" / "job.prom"):
        pass
    (fast / "there").mkdir()
    with told(fast, metrics=fast / "there" / "job.prom") as report:
        (fast / "there" / "job.prom").unlink()
        (fast / "there").rmdir()
        assert run(fast / "job", options={"report": report}).exit_code == 0
    assert capsys.readouterr().err.count("the job goes on") == 1


def test_a_command_with_bad_metrics_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("prometheus_client", reason="the extra 'metrics' is not installed")
    pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")
    command = ["generate", str(tmp_path / "o"), "--model", str(MODEL), "--steps", "1", "--n", "2", "--workers", "1"]
    assert main([*command, "--metrics", str(tmp_path / "absent" / "m.prom")]) == 5
    assert main([*command, "--metrics-port", "70000"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert main([*command, "--metrics", str(tmp_path / "m.prom"), "--metrics-port", "0"]) == 0
    assert "gaitcrafter_job_clips_done" in (tmp_path / "m.prom").read_text()


def test_lines_of_json(fast: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_SECONDS", 0.0)
    with told(fast, as_json=True) as report:
        run(fast / "job", StubEngine(poison={103}), options={"report": report})
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [line["clips"] for line in lines] == [0, 4, 8, 8, 12, 12]
    assert {line["event"] for line in lines} == {"progress"}
    assert (lines[-1]["failures"], lines[-1]["shards"], lines[0]["clips_per_second"]) == (1, 2, None)
    assert lines[-1]["seconds_left"] == 0


def test_lines_come_once_a_second_and_the_last_always(fast: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with told(fast, as_json=True) as report:
        run(fast / "job", options={"report": report})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["clips"] for line in lines] == [0, 12]


BAR = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from jobs import run
from stub import StubEngine
from gaitcrafter_rt.cli.reporting import reports

with reports(as_json=False, metrics=None, port=None, out=Path("o"), rank=0) as report:
    run(Path({out!r}), StubEngine(poison={{103}}), workers=1, options={{"report": report}})
"""


def test_the_bar_on_a_terminal(fast: Path) -> None:
    """A pseudo-terminal: clips, rate, workers, failures and the time left are drawn; nothing of it on standard output."""
    import pty
    import subprocess
    import sys

    ours, theirs = pty.openpty()
    script = BAR.format(tests=str(Path(__file__).parent), out=str(fast / "job"))
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "140"}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            pass  # the other end is closed
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(ours)
    assert process.returncode == 0
    for text in (b"generating", b"12/12", b"clips", b"/s", b"1 workers", b"1 failed", b"left"):
        assert text in shown, (text, shown)
