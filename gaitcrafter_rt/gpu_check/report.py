"""The check's results as JSON and as a page to read."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

from ..install import version


def machine(commit: str | None = None) -> dict[str, Any]:
    """GPU, driver and versions, commit and date."""
    import torch

    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(0), "capability": list(torch.cuda.get_device_capability(0))}
    properties = torch.cuda.get_device_properties(0)
    found |= {"memory_bytes": properties.total_memory, "multiprocessors": properties.multi_processor_count}
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    found["driver"] = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[:1]
    found |= {"gaitcrafter_rt": version(), "commit": commit or _said("git", "rev-parse", "HEAD") or "unknown"}
    found["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return found


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def write(folder: Path, report: dict[str, Any]) -> None:
    """``gpu-report.json`` and ``gpu-report.md`` in ``folder``; an earlier report there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu-report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "gpu-report.md").write_text(page(report))


def page(report: dict[str, Any]) -> str:
    """The report for people."""
    m = report["machine"]
    where = f"{m['gpu']} (sm_{''.join(map(str, m['capability']))}), driver {', '.join(m['driver'])}, CUDA {m['cuda']}"
    lines = ["# GPU report", "", f"{where}, torch {m['torch']}, Triton {m['triton']}; commit {m['commit'][:12]}, {m['date']}.", ""]
    for note in report.get("notes", []):
        lines += [note, ""]
    for name, found in report["sections"].items():
        verdict = f"{len(found['failures'])} failures:" if found["failures"] else "No failures."
        lines += [f"## {name}", "", f"{found['seconds']:.0f} s. {verdict}", ""]
        lines += [f"- {text}" for text in found["failures"]] + [""] * bool(found["failures"])
        lines += tables(name, found)
    return "\n".join(lines) + "\n"


def tables(name: str, found: dict[str, Any]) -> list[str]:
    """What a section measured."""
    if name == "limits":
        return [f"Copy {found['copy_bytes_per_s'] / 1e12:.2f} TB/s, bf16 product {found['product_flops'] / 1e12:.0f} TFLOP/s.", ""]
    if name == "kernels":
        return table(
            ["op", "case", "dtype", "largest error / largest value", "eager's", "verdict"],
            [[r["op"], r["case"], r["dtype"], _e(r.get("error")), _e(r.get("eager")), r["why"] or "ok"] for r in found["rows"]],
        )  # fmt: skip
    if name == "launches":
        return table(
            ["network", "kernel", "shape", "times", "us", "torch us", "bandwidth", "tensor cores", "registers", "spills", "shared"],
            [[r["network"], r["kernel"], " ".join(f"{k}{v}" for k, v in r["shape"].items()), r["count"], f"{r['ours']['us']:.1f}",
              "" if r["torch"] is None else f"{r['torch']['us']:.1f}", f"{r['bandwidth_share']:.0%}", f"{r['rate_share']:.0%}",
              r["registers"], r["spills"], r["shared"]] for r in costliest_first(found["rows"])],
        )  # fmt: skip
    if name == "networks":
        return networks(found)
    if name == "engine":
        return engine(found)
    if name == "backends":
        return backends(found)
    if name == "peers":
        ran = [r for r in found["rows"] if "absent" not in r]
        rows = [[r["peer"], r["batch"], r["dtype"], _ms(r), _e(r.get("largest_error"))] for r in ran]
        absent = [f"- {r['peer']}: {r['absent']}" for r in found["rows"] if "absent" in r]
        return table(["peer", "batch", "dtype", "ms per network call", "largest error"], rows) + [*absent, ""] * bool(absent)
    return []


def networks(found: dict[str, Any]) -> list[str]:
    """Milliseconds of one network call."""
    lines = []
    for network, parity in found["parity"].items():
        lines += [f"{network}: " + "; ".join(f"{k} {_e(v['ours'])} (eager {_e(v['eager'])})" for k, v in parity.items()), ""]
    names = list(dict.fromkeys(k for row in found["rows"] for k, v in row.items() if isinstance(v, dict)))
    rows = [
        [r["network"], r["batch"], "" if r.get("rate_share") is None else f"{r['rate_share']:.0%}", *(_ms(r.get(k)) for k in names)]
        for r in found["rows"]
    ]
    return lines + table(["network", "batch", "ours, share of the product rate", *(f"{k}, ms" for k in names)], rows)


def engine(found: dict[str, Any]) -> list[str]:
    """What the engine section found."""
    agreement = [[r["what"], f"{r['pixels']:.5f}", f"{r['iou']:.4f}"] for r in found.get("parity", []) + found.get("samplers", [])]
    lines = table(["beside the native engine in fp32", "equal pixels", "mean IoU"], agreement)
    bits = [[r["what"], r.get("clips", ""), r.get("differ", "")] for r in found.get("determinism", [])]
    lines += table(["equal bits", "clips", "that differ"], bits)
    head = ["network", "batch", "convolutions", "steps", "guidance", "seconds a call", "clips/s", "first call s", "peak GB"]
    rows = [
        [r["network"], r["batch"], r["conv"], r["steps"], r["guidance"], f"{r['latency_s']:.4f}", f"{r['clips_per_s']:.1f}",
         f"{r['first_call_s']:.1f}", f"{r['peak_bytes'] / 1e9:.2f}"] for r in found.get("speed", []) if "network" in r
    ]  # fmt: skip
    return lines + table(head, rows)


def backends(found: dict[str, Any]) -> list[str]:
    """What the backends section found, and what was not there."""
    rows = []
    for r in found["rows"]:
        bits = "none" if not any(r["bits"].values()) else "; ".join(f"{n} {what}" for what, n in r["bits"].items() if n)
        speeds = [f"{v['latency_s'] * 1e3:.1f} ms, {v['clips_per_s']:.0f}/s" for v in r["speed"].values()]
        rows.append([r["what"], r["runtime"], f"{r['pixels']:.5f}", bits, f"{r['first_call_s']:.1f}", *speeds])
    batches = [f"batch {b}: a call, clips" for b in found["rows"][0]["speed"]] if rows else []
    head = ["backend", "runtime", "pixels equal to the native engine's in fp32", "clips with other bits", "first call s", *batches]
    absent = [f"- {r['what']}: {r['why']}" for r in found["absent"]]
    return table(head, rows) * bool(rows) + [*absent, ""] * bool(absent)


def summary(report: dict[str, Any]) -> str:
    """A few lines for a terminal: the limits, networks, the costliest launches."""
    sections = report["sections"]
    lines = tables("limits", sections["limits"]) if sections.get("limits", {}).get("copy_bytes_per_s") else []
    for row in sections.get("engine", {}).get("parity", []) + sections.get("engine", {}).get("samplers", []):
        lines.append(f"{row['what']}: {row['pixels']:.5f} of pixels, IoU {row['iou']:.4f}")
    for row in sections.get("engine", {}).get("determinism", []):
        lines.append(f"{row['what']}: {row.get('differ', '')} differ")
    for row in (r for r in sections.get("engine", {}).get("speed", []) if "network" in r):
        lines.append(f"{row['what']}: {row['latency_s'] * 1e3:.1f} ms a call, {row['clips_per_s']:.1f} clips/s, "
                     f"{row['peak_bytes'] / 1e9:.2f} GB, first call {row['first_call_s']:.1f} s")  # fmt: skip
    for row in sections.get("networks", {}).get("rows", []):
        lines.append(
            f"{row['network']} batch {row['batch']}: "
            + ", ".join(f"{k} {_ms(v)} ms" for k, v in row.items() if isinstance(v, dict))
        )
    for row in costliest_first(sections.get("launches", {}).get("rows", []))[:16]:
        shape = " ".join(f"{k}{v}" for k, v in row["shape"].items())
        rival = "" if row["torch"] is None else f", torch {row['torch']['us']:.0f}"
        lines.append(
            f"{row['network']} {row['kernel']} {shape}: {row['count']} x {row['ours']['us']:.0f} us{rival}, "
            f"bandwidth {row['bandwidth_share']:.0%}, products {row['rate_share']:.0%}, spills {row['spills']}"
        )
    return "\n".join(lines)


def costliest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Launches by what they take of one call of their network."""
    return sorted(rows, key=lambda r: -r["count"] * r["ours"]["us"])


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(str(v) for v in row) + " |" for row in rows), ""]


def _e(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def _ms(timing: dict[str, Any] | None) -> str:
    if timing is None:
        return ""
    if "us" not in timing:
        return f"absent: {timing['absent']}"
    return f"{timing['us'] / 1e3:.3f}" + ("" if timing.get("graph", True) else " (no graph)")
