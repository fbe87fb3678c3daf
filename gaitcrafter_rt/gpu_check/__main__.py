"""``python -m gaitcrafter_rt.gpu_check``: runs the sections, writes the report, says what failed."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NO_GPU = 77
SECTIONS = ("compile", "limits", "kernels", "engine", "networks", "launches", "backends", "peers")


def main(arguments: list[str] | None = None) -> int:
    """0: all passed; 1: something failed; 77: no GPU here, and nothing was run."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections with commas between them (default: all)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of gpu-report.json and gpu-report.md (default: here)")
    parser.add_argument("--dtypes", default="bf16,fp16,fp32", help="types of the kernel and network parity (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer batch sizes, no torch.compile")
    parser.add_argument("--compile", default="walker,paper", help="networks that torch.compile takes part in (default: both)")
    parser.add_argument("--seconds", type=float, help="time for everything; what no longer fits is left out, and named")
    parser.add_argument("--commit", help="the commit to write into the report, where this is no git checkout")
    options = parser.parse_args(arguments)
    only, dtypes = ([name for name in text.split(",") if name] for text in (options.only, options.dtypes))
    for given, allowed in ((only, SECTIONS), (dtypes, ("bf16", "fp16", "fp32"))):
        if unknown := set(given) - set(allowed):
            parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(allowed)}")
    if (reason := no_gpu()) is not None:
        print(f"gpu-check: {reason}; nothing was run")
        return NO_GPU
    from .measure import set_time

    set_time(options.seconds)
    compiled = [] if options.quick else options.compile.split(",")
    return Check(dtypes, options.quick, options.out, options.commit, compiled).run(only)


def no_gpu() -> str | None:
    """Why nothing can run here, or None."""
    try:
        import torch
    except ImportError:
        return "torch is absent: pip install 'gaitcrafter-rt[gpu,train]'"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no NVIDIA GPU"
    return None


@dataclass
class Check:
    """One run of the check."""

    dtypes: list[str]
    quick: bool
    out: Path
    commit: str | None = None
    compiled: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def run(self, only: list[str]) -> int:
        """The sections in their order; the report is written after each, so that a machine that is lost leaves what it found."""
        import torch

        from . import report as reporting

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # eager fp32 is the measure of ours
        self.report = {"machine": reporting.machine(self.commit), "quick": self.quick, "sections": {}}
        for name in (s for s in SECTIONS if s in only):
            began = time.perf_counter()
            try:
                found: dict[str, Any] = getattr(self, name)()
            except Exception as e:  # a section must not hide the others
                traceback.print_exc()
                found = {"failures": [f"{type(e).__name__}: {str(e)[:500]}"]}
            found["seconds"] = time.perf_counter() - began
            self.report["sections"][name] = found
            reporting.write(self.out, self.report)
            left_out = f", left out: {', '.join(found['left_out'])}" if found.get("left_out") else ""
            print(f"{name}: {found['seconds']:.0f} s, {len(found['failures'])} failures{left_out}", flush=True)
        failures = [f"{name}: {text}" for name, found in self.report["sections"].items() for text in found["failures"]]
        print(reporting.summary(self.report))
        for text in failures:
            print("FAILED", text)
        return 1 if failures else 0

    def compile(self) -> dict[str, Any]:
        """All kernels of the other sections, by all processors at once; without this each compiles at its first launch."""
        from ..export.launches import network_launches, sampler_launches
        from .kernel_cases import recorded
        from .kernels import DTYPES
        from .launches import warm_up
        from .networks import paper_config, walker

        configs, dtypes = (paper_config(), walker().config), [DTYPES[name] for name in self.dtypes]
        launches = [launch for c in configs for dtype in dtypes for launch in network_launches(c, 1, dtype)]
        launches += [launch for c in configs for launch in sampler_launches(c, 1)]
        launches += [launch for dtype in dtypes for launch in recorded(dtype)]
        return {"failures": warm_up(launches)}

    def limits(self) -> dict[str, Any]:
        """What a large copy and a large product reach here."""
        from .measure import bandwidth, product_rate

        return {"copy_bytes_per_s": bandwidth(), "product_flops": product_rate(), "failures": []}

    def kernels(self) -> dict[str, Any]:
        """Every op against eager and double."""
        from .kernels import section

        return section(self.dtypes)

    def networks(self) -> dict[str, Any]:
        """Whole networks: parity and time of one call."""
        from .networks import section

        compile_at = {name: batch for name, batch in (("walker", 32), ("paper", 8)) if name in self.compiled}
        return section(self.batches(), self.dtypes, compile_at, self._limits()["product_flops"])

    def engine(self) -> dict[str, Any]:
        """The torch engine end to end."""
        from .engine import section

        return section(self.dtypes, self.batches())

    def backends(self) -> dict[str, Any]:
        """Engines of other backends, end to end, where they are installed."""
        from .backends import section

        return section()

    def peers(self) -> dict[str, Any]:
        """Other runtimes, where they are installed."""
        from .peers import section

        return section([1, 32])

    def batches(self) -> dict[str, list[int]]:
        """Batch sizes that are timed, by network."""
        few, many = {"walker": [32, 1], "paper": [8, 1]}, {"walker": [32, 1, 8, 128], "paper": [8, 1, 32]}
        return few if self.quick else many

    def _limits(self) -> dict[str, Any]:
        return self.report["sections"].get("limits") or self.limits()

    def launches(self) -> dict[str, Any]:
        """Every launch of both networks alone."""
        import torch

        from .launches import section
        from .networks import paper_config, walker

        limits = self._limits()
        configs = {"paper": (paper_config(), 8), "walker": (walker().config, 32)}
        return section(configs, limits["copy_bytes_per_s"], limits["product_flops"], torch.bfloat16)


if __name__ == "__main__":
    sys.exit(main())
