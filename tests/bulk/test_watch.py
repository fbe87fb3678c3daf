"""Watching a job: what its folder shows, as numbers and as a page that a browser renders."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from jobs import open_small, run
from PIL import Image
from stub import StubEngine

from gaitcrafter_rt.bulk import Grid, run_job
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.gallery import recent
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.page import MARK, page
from gaitcrafter_rt.bulk.watch import as_dict, look
from gaitcrafter_rt.bulk.worker import Worker
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.conditions import Vocabulary
from gaitcrafter_rt.errors import DataFormatError

LOCAL = LocalFileSystem()
MANY = {"clips": 96, "shard_clips": 16, "block_clips": 4}
HOSTILE = "</td><script>document.title='owned'</script>&\"'<img src=x onerror=alert(1)>"


def set_times(root: Path, begin: float, step: float) -> None:
    """The plan at ``begin``, then each receipt ``step`` seconds after the one before."""
    folder = Folder(root)
    os.utime(folder.plan, (begin, begin))
    for k, name in enumerate(sorted(os.listdir(folder.receipts)), 1):
        os.utime(folder.receipts / name, (begin + k * step,) * 2)


def half_done(root: Path, engine: StubEngine | None = None, **changes: object) -> None:
    """Shards 0 and 1 sealed, two blocks of shard 2, a lease on it and a dead one on shard 3."""
    job = open_small(LOCAL, root, engine, **{**MANY, **changes})
    for name in ("shards", "receipts", "wip", "leases"):
        (root / name).mkdir()
    worker = Worker(LOCAL, job, engine or StubEngine())
    for shard in (0, 1):
        worker.run_shard(shard)
    worker.make_block(2, 0)
    worker.make_block(2, 3)
    LOCAL.touch(job.folder.lease(2))
    LOCAL.touch(job.folder.lease(3))
    os.utime(job.folder.lease(3), (time.time() - 3600,) * 2)


def test_a_running_job_is_known_by_its_folder(fast: Path) -> None:
    half_done(fast, StubEngine(poison={101}))
    before = sorted(p for p in fast.rglob("*"))
    now = time.time()
    set_times(fast, now - 100, 40)
    for k in (0, 3):
        os.utime(Folder(fast).block(2, k), (now - 10, now - 10))
    view = look(fast, now=lambda: now)
    assert (view.state, view.complete, view.clips, view.waiting, view.clips_total) == ("running", False, 32, 8, 96)
    assert (view.shards, view.shards_total, view.blocks) == (2, 6, 2)
    assert list(view.working) == [2]
    assert [f.clip_index for f in view.quarantined] == [101]
    assert view.quality == {"failed": 1}
    assert view.bytes == sum(p.stat().st_size for p in (fast / "shards").iterdir())
    # 40 clips in the 100 seconds since the plan: at that rate the other 56 take 140.
    assert view.rate == pytest.approx(0.4)
    assert view.seconds_left == pytest.approx(140)
    assert sorted(p for p in fast.rglob("*")) == before
    facts = as_dict(view)
    assert facts["working"][0]["shard"] == 2
    assert (facts["clips_waiting"], facts["quarantined"], facts["problems"]) == (8, 1, [])


def test_a_finished_job_and_a_stopped_one(fast: Path) -> None:
    half_done(fast)
    os.utime(Folder(fast).lease(2), (0, 0))
    assert (look(fast).state, look(fast).seconds_left) == ("stopped", None)
    run(fast, **MANY)
    view = look(fast)
    assert (view.state, view.clips, view.waiting, view.seconds_left, view.problems) == ("complete", 96, 0, 0.0, [])
    shutil.rmtree(fast / "receipts")
    assert (look(fast).state, look(fast).rate) == ("stopped", None)
    with pytest.raises(DataFormatError, match=r"plan\.json"):
        look(fast / "shards")


def test_throughput_adds_up_and_leaves_pauses_empty(fast: Path) -> None:
    """Six shards of 16 clips ten seconds apart, then an hour of nothing before the last: it does not spread over the hour."""
    run(fast, **MANY)
    set_times(fast, 1_000_000, 10)
    points = look(fast).throughput(30)
    assert [t for t, _ in points] == pytest.approx([1_000_000 + 2 * k for k in range(30)])
    assert [r for _, r in points] == pytest.approx([1.6] * 30)
    last = Folder(fast).receipt(5)
    os.utime(last, (1_003_650,) * 2)
    points = look(fast).throughput(73)
    assert sum(rate * 50 for _, rate in points) == pytest.approx(96)
    assert [rate for _, rate in points[2:-1]] == [0.0] * 70


def test_what_is_broken_is_told(fast: Path) -> None:
    run(fast, **MANY)
    folder = Folder(fast)
    folder.receipt(1).write_bytes(b"{}")
    folder.shard(2).unlink()
    with folder.shard(3).open("ab") as f:
        f.write(b"!")
    (fast / "conflicts").mkdir()
    (fast / "conflicts" / "x").touch()
    view = look(fast)
    assert view.shards == 3
    assert len(view.problems) == 4
    for text in ("shard-00000001.json", "shard-00000002.parquet is not there", "its receipt says", "conflicts/ holds 1"):
        assert any(text in problem for problem in view.problems)


def test_the_gallery_shows_the_newest_clips_bit_for_bit(fast: Path) -> None:
    """From sealed shards and from blocks; a quarantined clip has nothing to show; damage is told."""
    from gaitcrafter_rt.bulk import ClipDataset

    half_done(fast, StubEngine(poison={132}))
    set_times(fast, time.time() - 100, 40)
    whole = fast.parent / f"{fast.name}-whole"
    try:
        run(whole, **MANY)
        samples = recent(look(fast), 12)
        assert len(samples) >= 10
        assert 132 not in [s.clip_index for s in samples]
        assert samples[0].clip_index in range(132, 148)
        with ClipDataset.open(whole) as data:
            clips = data.read([s.clip_index - 100 for s in samples])
        for k, sample in enumerate(samples):
            np.testing.assert_array_equal(sample.frames, clips[k])
            assert sample.label == clips.label(k)
            pictures = Image.open(BytesIO(sample.gif(2)))
            shown = []
            for frame in range(pictures.n_frames):
                pictures.seek(frame)
                # Equal frames become one that is shown longer.
                shown += [np.asarray(pictures.convert("L"))] * (pictures.info["duration"] // 40)
            np.testing.assert_array_equal(np.stack(shown)[:, ::2, ::2], clips[k])
            np.testing.assert_array_equal(np.stack(shown)[:, 1::2, 1::2], clips[k])
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    data = bytearray(Folder(fast).shard(1).read_bytes())
    data[200] ^= 1
    Folder(fast).shard(1).write_bytes(data)
    view = look(fast)
    recent(view, 12)
    assert any("shard-00000001" in text for text in view.problems)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_job(root: Path) -> None:
    """Labels, errors and a folder's name that try to become HTML."""
    labels = {"dataset": [], "identity": [HOSTILE], "view": ["000"], "covariate": []}

    class Hostile(StubEngine):
        def generate(self, conditions, seed=0, **settings):  # type: ignore[no-untyped-def]
            if 102 in settings["clip_indices"]:
                raise RuntimeError(HOSTILE)
            return super().generate(conditions, seed, **settings)

    engine = Hostile(name=HOSTILE)
    engine.info["provenance"]["training_data"] = HOSTILE
    engine.vocabulary = Vocabulary(labels, {axis: bool(names) for axis, names in labels.items()}, 0)
    grid = Grid(identity=[{HOSTILE: 1.0}], view=["000"])
    run_job(open_small(LOCAL, root, engine, conditions=grid), engine, fs=LOCAL)


def test_hostile_labels_stay_text(fast: Path) -> None:
    root = fast / "<b>&\"' job"
    hostile_job(root)
    view = look(root)
    text = page(view, recent(view, 12))
    parsed = _Page(text)
    assert {tag for tag, _ in parsed.tags} & {"script", "b onerror", "iframe", "object", "link", "form"} == set()
    sources = [attributes.get("src") or "" for tag, attributes in parsed.tags if tag == "img"]
    assert len(sources) == 11
    assert all(s.startswith("data:image/gif;base64,") for s in sources)
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert parsed.text.count(HOSTILE) == 11 + 1 + 2  # captions, one error, model and its data
    assert all(HOSTILE in (a["alt"] or "") for tag, a in parsed.tags if tag == "img")
    assert root.name in parsed.text
    for match in re.findall(r"base64,([^\"]+)", text):
        assert Image.open(BytesIO(base64.b64decode(match))).format == "GIF"


def test_jobs_command(fast: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    half_done(fast / "job")
    html = fast / "job.html"
    assert main(["jobs", str(fast / "job"), "--html", str(html)]) == 0
    out, err = capsys.readouterr()
    for text in ("running", "40 of 96 (41.7 %)", "8 of them in 2 blocks", "1 shards have a living lease"):
        assert text in out
    assert "wrote" in err
    first = html.read_text()
    assert first.startswith(MARK)
    assert main(["jobs", str(fast / "job"), "--html", str(html), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["state"], facts["clips"], facts["html"]) == ("running", 32, str(html))
    # A page of ours is replaced, a stranger's file is not.
    (fast / "letter.html").write_text("<!doctype html>dear reader")
    for other, wanted in (("letter.html", "is no page"), ("job", "is not a file")):
        assert main(["jobs", str(fast / "job"), "--html", str(fast / other)]) == 5
        assert wanted in capsys.readouterr().err
    assert (fast / "letter.html").read_text() == "<!doctype html>dear reader"
    assert sorted(p.name for p in fast.iterdir()) == ["job", "job.html", "letter.html"]
    assert main(["jobs", str(fast)]) == 4


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
BROWSER = next((b for name in BROWSERS if (b := shutil.which(name))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium-headless-shell)")
def test_a_browser_renders_the_page(tmp_path: Path) -> None:
    """Headless Chromium: no script ran, every picture was decoded, the curve and the silhouettes are drawn."""
    hostile_job(tmp_path / "job")
    set_times(tmp_path / "job", time.time() - 100, 40)
    assert main(["jobs", str(tmp_path / "job"), "--html", str(tmp_path / "job.html")]) == 0
    address = "file://" + quote(str(tmp_path / "job.html"))
    common = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
              f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1100"]  # fmt: skip
    dom = subprocess.run([*common, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True).stdout
    parsed = _Page(dom)
    assert {tag for tag, _ in parsed.tags} & {"script"} == set()
    assert "<title>job</title>" in dom
    assert len([tag for tag, _ in parsed.tags if tag == "img"]) == 11
    shot = tmp_path / "page.png"
    subprocess.run([*common, f"--screenshot={shot}", address], capture_output=True, timeout=120, check=True)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (1100, 1000)
    blue, green = (0x2F, 0x6F, 0x9F), (0x2D, 0x7D, 0x46)
    assert (np.abs(pixels - blue).sum(-1) < 12).sum() > 5000, "the bar"
    assert (np.abs(pixels - green).sum(-1) < 12).sum() > 500, "the state"
    assert (pixels.sum(-1) == 0).sum() > 20_000, "the background of the silhouettes"
