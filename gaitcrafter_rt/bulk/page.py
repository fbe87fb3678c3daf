"""A job as one HTML page that needs nothing but itself: how far it is, throughput over time, the newest clips, what went wrong.

Labels, errors and names of hosts come from files that anybody may have written: every one of them is escaped, and the page allows
no script and no request, whatever it holds.
"""

from __future__ import annotations

import base64
import time
from html import escape
from string import Template

from .gallery import Sample
from .watch import JobView

# What a page of ours begins with: only such a file is replaced.
MARK = "<!doctype html><!-- gaitcrafter-rt jobs -->"
_BINS, _WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 80, 860, 190, 56, 24, 10
_SCALE_TO = 128
_MOST_LINES = 50

_PAGE = Template("""$mark
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { --ink: #1d2433; --faint: #667085; --line: #d9dee7; --card: #fff; --page: #f4f6f9; --main: #2f6f9f; --bad: #b42318;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --faint: #98a2b3; --line: #344054; --card: #1b2230; --page: #121722;
  --main: #6db1e0; --bad: #ff8a7d; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 24px; background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 940px; margin: auto; }
h1 { font-size: 22px; margin: 0 0 2px; overflow-wrap: anywhere; } h2 { font-size: 15px; margin: 0 0 10px; }
.faint { color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; margin: 16px 0; }
.state { display: inline-block; padding: 1px 10px; border-radius: 99px; color: #fff; font-size: 13px; vertical-align: 3px; }
.complete { background: #2d7d46; } .running { background: #2f6f9f; } .stopped { background: #b54708; }
.bar { height: 14px; border-radius: 7px; background: var(--line); overflow: hidden; display: flex; margin: 6px 0 14px; }
.bar i { background: var(--main); } .bar b { background: var(--main); opacity: .45; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; margin: 0; }
dt { color: var(--faint); font-size: 12px; } dd { margin: 0; font-size: 17px; font-variant-numeric: tabular-nums; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)); gap: 14px; }
figure { margin: 0; } figure img { width: 100%; image-rendering: pixelated; border-radius: 6px; background: #000; display: block; }
figcaption { font-size: 12px; overflow-wrap: anywhere; margin-top: 4px; }
.flag { color: var(--bad); } ul { margin: 0; padding-left: 18px; } li { overflow-wrap: anywhere; } li.bad { color: var(--bad); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font-size: 11px; }
svg .grid { stroke: var(--line); } svg .area { fill: var(--main); opacity: .25; } svg .curve { fill: none; stroke: var(--main);
  stroke-width: 1.5; }
</style></head><body><main>
<h1>$title <span class="state $state">$state</span></h1>
<div class="faint">$about</div>
<section><h2>$progress</h2>
<div class="bar" role="img" aria-label="$percent"><i style="width:$done%"></i><b style="width:$waiting%"></b></div>
<dl>$facts</dl></section>
<section><h2>Clips per second over time</h2>$chart</section>
$trouble
<section><h2>Newest clips</h2>$gallery</section>
<div class="faint">$foot</div>
</main></body></html>
""")


def page(view: JobView, samples: list[Sample]) -> str:
    """The page; deterministic for a view."""
    spec = view.plan.spec
    share, waiting = (100 * n / view.clips_total for n in (view.clips, view.waiting))
    rate, left = view.rate, view.seconds_left
    facts = {
        "shards": f"{view.shards:,} of {view.shards_total:,}",
        "clips per second": "-" if rate is None else f"{rate:,.2f}",
        "left": "-" if left is None or view.complete else duration(left),
        "shards worked on": f"{len(view.working):,}",
        "quarantined": f"{len(view.quarantined):,}",
        "flagged": f"{sum(n for k, n in view.quality.items() if k not in ('failed', 'non_finite')):,}",
        "size": f"{view.bytes / 1e6:,.1f} MB" if view.bytes >= 1e6 else f"{view.bytes / 1e3:,.1f} kB",
        "engine time": duration(view.engine_seconds),
        "hosts": f"{len(view.hosts):,}",
    }
    origin = f" (trained on {spec.model.training_data})" if spec.model.training_data else ""
    about = (
        f"model {spec.model.name}{origin}; {spec.sampler.get('kind')}, {spec.sampler.get('steps')} steps; seed {spec.seed}; "
        f"{spec.engine.made_by}, {spec.engine.precision} on {spec.engine.device}; plan {view.plan.plan_id[:12]}"
    )
    return _PAGE.substitute(
        mark=MARK, title=escape(view.root.absolute().name or str(view.root)), state=view.state, about=escape(about),
        progress=escape(
            f"{view.clips + view.waiting:,} of {view.clips_total:,} clips"
            + (f", {view.waiting:,} of them in shards that are not whole yet" if view.waiting else "")
        ),
        percent=f"{share + waiting:.1f} %", done=f"{share:.3f}", waiting=f"{waiting:.3f}",
        facts="".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()),
        chart=_chart(view), gallery=_gallery(samples), trouble=_trouble(view),
        foot=escape(f"{view.root.absolute()}, seen {_clock(view.now, full=True)}; planned {_clock(view.created, full=True)}"
                    f"; last commit {_clock(view.last, full=True)}. Synthetic clips."),
    )  # fmt: skip


def duration(seconds: float) -> str:
    """``2 d 3 h``, ``1 h 20 min``, ``45 s``."""
    whole = round(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size:,} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def _clock(seconds: float, *, full: bool = False) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC" if full else "%H:%M:%S", time.gmtime(seconds))


def _gallery(samples: list[Sample]) -> str:
    if not samples:
        return '<div class="faint">none yet</div>'
    figures = []
    for sample in samples:
        scale = max(1, min(8, _SCALE_TO // sample.frames.shape[2]))
        data = base64.b64encode(sample.gif(scale)).decode()
        flags = f'<div class="flag">{escape(", ".join(sample.flags))}</div>' if sample.flags else ""
        text = escape(sample.label, quote=True)
        figures.append(
            f'<figure><img src="data:image/gif;base64,{data}" alt="{text}"><figcaption>{text}'
            f'<div class="faint">clip {sample.clip_index}</div>{flags}</figcaption></figure>'
        )
    return f'<div class="clips">{"".join(figures)}</div>'


def _chart(view: JobView) -> str:
    points = view.throughput(_BINS)
    most = max((rate for _, rate in points), default=0.0)
    if not most:
        return '<div class="faint">too little to tell yet</div>'
    width, height = _WIDTH - _LEFT, _HEIGHT - _BOTTOM - _TOP
    step = width / len(points)
    # Steps, since a bin's rate holds over the whole bin.
    line = " ".join(
        f"{_LEFT + (k + side) * step:.1f},{_TOP + height * (1 - rate / most):.1f}"
        for k, (_, rate) in enumerate(points)
        for side in (0, 1)
    )
    floor = _TOP + height
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {_TOP + height * (1 - part):.1f}H{_WIDTH}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + height * (1 - part) + 4:.1f}" text-anchor="end">{most * part:,.3g}</text>'
        for part in (0, 0.5, 1)
    )
    bin_seconds = points[1][0] - points[0][0]
    begin, end = points[0][0], points[-1][0] + bin_seconds
    long = end - begin > 86400
    ticks = "".join(
        f'<text x="{_LEFT + width * part:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
        f"{time.strftime('%m-%d %H:%M' if long else '%H:%M:%S', time.gmtime(begin + (end - begin) * part))}</text>"
        for part, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="clips per second over time">{grid}{ticks}'
        f'<polygon class="area" points="{_LEFT},{floor} {line} {_WIDTH},{floor}"/><polyline class="curve" points="{line}"/></svg>'
        f'<div class="faint">in steps of {escape(duration(max(1.0, bin_seconds)))}, by the times of commits; UTC</div>'
    )


def _trouble(view: JobView) -> str:
    lines = [f'<li class="bad">{escape(text)}</li>' for text in view.problems[:_MOST_LINES]]
    lines += [
        f"<li>clip {f.clip} (index {f.clip_index}): {escape(f.error)}</li>" for f in view.quarantined[: _MOST_LINES - len(lines)]
    ]
    lines += [f"<li>{count:,} clips are flagged {escape(name)}</li>" for name, count in sorted(view.quality.items())]
    hidden = len(view.problems) + len(view.quarantined) + len(view.quality) - len(lines)
    if hidden > 0:
        lines.append(f'<li class="faint">{hidden:,} more: gaitcrafter-rt dataset stats, dataset verify</li>')
    return f"<section><h2>What to look at</h2><ul>{''.join(lines)}</ul></section>" if lines else ""
