"""The files of examples/: scripts run with the schedulers' commands played by others, YAML is read, and every command of ours is
parsed by our own command line."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from gaitcrafter_rt.bulk.errors import QUARANTINED, RESUMABLE
from gaitcrafter_rt.cli.generate import generate
from gaitcrafter_rt.errors import CapabilityError, InternalError, InvalidRequestError, ModelFormatError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MODEL = ROOT / "tests" / "fixtures" / "tiny-walker"
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")


def parsed(arguments: list[str]) -> dict[str, Any]:
    """A command of ours as our command line understands it. Raises click.UsageError for an option that is not there."""
    assert arguments[:1] == ["generate"], arguments
    return generate.make_context("generate", list(arguments[1:])).params


def play(folder: Path, name: str, body: str) -> None:
    """Put a command on the path; it keeps its arguments in NAME.calls, a JSON list a line."""
    script = folder / name
    script.write_text(
        f"#!/bin/bash\n{shlex.quote(sys.executable)} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\" "
        f">> {shlex.quote(str(folder / name))}.calls\n{body}\n"
    )
    script.chmod(0o755)


def calls(folder: Path, name: str) -> list[list[str]]:
    path = folder / f"{name}.calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "12", "SLURM_ARRAY_JOB_ID": "99"}


def slurm(folder: Path, **more: str) -> subprocess.Popen[bytes]:
    play(folder, "scontrol", "")
    env = {**os.environ, **SLURM, "PATH": f"{folder}:{os.environ['PATH']}", "OUT": str(folder / "a folder"), **more}
    return subprocess.Popen(["bash", str(EXAMPLES / "slurm-array.sh")], env=env, cwd=folder, start_new_session=True)


@pytest.mark.parametrize("code, restarts, requeued", [(0, "0", False), (75, "0", True), (75, "20", False), (3, "0", False)])
def test_slurm_requeues_on_75_and_passes_codes_on(tmp_path: Path, code: int, restarts: str, requeued: bool) -> None:
    play(tmp_path, "gaitcrafter-rt", f"exit {code}")
    assert slurm(tmp_path, SLURM_RESTART_COUNT=restarts).wait(30) == code
    (command,) = calls(tmp_path, "gaitcrafter-rt")
    options = parsed(command)
    assert options["out"] == tmp_path / "a folder"
    assert (options["rank"], options["world_size"], options["n"]) == (3, 12, 10_000_000)
    assert calls(tmp_path, "scontrol") == ([["requeue", "99_7"]] if requeued else [])


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_tells_the_job_of_signals_and_waits_for_it(tmp_path: Path, number: signal.Signals) -> None:
    """Slurm tells the batch shell alone. The job takes a moment to finish its block; its code decides."""
    name = number.name.removeprefix("SIG")
    play(tmp_path, "gaitcrafter-rt", f"trap 'sleep 0.5; exit 75' {name}; touch {shlex.quote(str(tmp_path / 'up'))}; "
         "while true; do sleep 0.05; done")  # fmt: skip
    process = slurm(tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30) == 75
    assert calls(tmp_path, "scontrol") == [["requeue", "99_7"]]


def test_slurm_script_asks_for_what_it_relies_on() -> None:
    text = (EXAMPLES / "slurm-array.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.M))
    assert asked["signal"] == "B:USR1@120"
    assert "requeue" in asked
    assert asked["open-mode"] == "append"
    assert re.fullmatch(r"0-\d+", asked["array"])
    # The signal comes before the grace time could be too long.
    assert parsed_grace(text) < 120
    checker = shutil.which("shellcheck")
    if checker:
        assert subprocess.run([checker, EXAMPLES / "slurm-array.sh"], capture_output=True, text=True).stdout == ""


def parsed_grace(text: str) -> float:
    return float(re.findall(r"--grace[ =](\d+)", text)[0])


def test_kubernetes_job() -> None:
    job = yaml.safe_load((EXAMPLES / "kubernetes-job.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    # What the API server requires of a policy with FailIndex.
    assert pod["restartPolicy"] == "Never"
    assert spec["backoffLimitPerIndex"] >= 1
    (container,) = pod["containers"]
    command = [*container["command"], *container["args"]]
    assert command[0] == "gaitcrafter-rt"
    options = parsed([part.replace("$(JOB_COMPLETION_INDEX)", "99") for part in command[1:]])
    assert options["rank"] == 99 == options["world_size"] - 1
    assert options["world_size"] == spec["completions"]
    assert pod["terminationGracePeriodSeconds"] > options["grace"]
    rules = spec["podFailurePolicy"]["rules"]
    codes = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert codes[RESUMABLE] == "Ignore"
    final = {QUARANTINED, *(e.exit_code for e in (InvalidRequestError, ModelFormatError, CapabilityError, InternalError))}
    assert {code for code, action in codes.items() if action == "FailIndex"} == final
    for rule in rules:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
            assert 0 not in rule["onExitCodes"]["values"]
    mounts = {m["mountPath"] for m in container["volumeMounts"]}
    assert any(str(options["out"]).startswith(mount) for mount in mounts)
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize("codes, runs, wanted", [([0], 1, 0), ([75, 75, 0], 3, 0), ([75] * 9, 5, 75), ([3], 1, 3)])
def test_skypilot_task(tmp_path: Path, codes: list[int], runs: int, wanted: int) -> None:
    task = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text())
    assert set(task) == {"name", "num_nodes", "resources", "volumes", "setup", "run"}
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [RESUMABLE]
    play(tmp_path, "gaitcrafter-rt", f"codes=({' '.join(map(str, codes))}); "
         f"exit ${{codes[$(( $(wc -l < {shlex.quote(str(tmp_path / 'gaitcrafter-rt.calls'))}) - 1 ))]}}")  # fmt: skip
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "REST": "0"}
    env |= {"SKYPILOT_NODE_RANK": "2", "SKYPILOT_NUM_NODES": "8"}
    done = subprocess.run(["bash", "-c", task["run"]], env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == wanted
    made = calls(tmp_path, "gaitcrafter-rt")
    assert len(made) == runs
    options = parsed(made[0])
    assert (options["rank"], options["world_size"]) == (2, task["num_nodes"])
    assert any(str(options["out"]).startswith(mount) for mount in task["volumes"])


def ray_commands() -> list[str]:
    cluster = yaml.safe_load((EXAMPLES / "ray-cluster.yaml").read_text())
    return [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]


def test_ray_cluster_keeps_authentication_on() -> None:
    text = (EXAMPLES / "ray-cluster.yaml").read_text()
    cluster = yaml.safe_load(text)
    starts = [c for c in ray_commands() if "ray start" in c]
    assert len(starts) == 2
    assert all(c.startswith("RAY_AUTH_MODE=token ") for c in starts)
    assert "0.0.0.0" not in text
    assert "--include-dashboard=false" in starts[0]
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    last = text[text.index("RAY_ADDRESS=auto gaitcrafter-rt ") :].replace("\\\n#", "")
    options = parsed(shlex.split(last)[2:])
    assert (options["backend"], options["n"]) == ("ray", 10_000_000)


def test_ray_itself_takes_the_cluster_and_its_commands() -> None:
    """Ray's schema of a cluster file, and the options of its own ``ray start``, of the example and of docs/scaling.md."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with ray")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((EXAMPLES / "ray-cluster.yaml").read_text()), schema)
    from ray.scripts.scripts import start

    documented = re.findall(r"^(ray start .*?)(?:  +#.*)?$", (ROOT / "docs" / "scaling.md").read_text(), re.M)
    assert len(documented) == 2
    for command in [*documented, *(c for c in ray_commands() if "ray start" in c)]:
        words = shlex.split(command)
        context = start.make_context("start", words[words.index("start") + 1 :])
        assert context.params["head"] != bool(context.params["address"])
        if context.params["head"]:
            assert context.params["include_dashboard"] is False


def test_datatrove_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As datatrove calls it, rank after rank; a rank that fails raises."""
    pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")
    pytest.importorskip("pyarrow", reason="the extra 'bulk' is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import datatrove_step

    assert parsed(datatrove_step.COMMAND)["n"] == 1_000_000
    command = ["generate", str(tmp_path / "o"), "--model", str(MODEL), "--steps", "1", "--n", "6", "--workers", "1"]
    monkeypatch.setattr(datatrove_step, "COMMAND", command)
    assert list(datatrove_step.generate(["document"], rank=1, world_size=2)) == ["document"]
    assert list(datatrove_step.generate(rank=0, world_size=2)) == []
    monkeypatch.setattr(datatrove_step, "COMMAND", [*command, "--seed", "9"])
    with pytest.raises(RuntimeError, match="left with 2"):
        datatrove_step.generate(rank=0, world_size=2)


def test_our_parser_refuses_what_is_not_there() -> None:
    with pytest.raises(click.UsageError, match="nope"):
        parsed(["generate", "/x", "--nope"])


def test_every_file_is_in_the_overview() -> None:
    text = (EXAMPLES / "README.md").read_text()
    names = {p.name for p in EXAMPLES.iterdir() if p.name not in ("README.md", "__pycache__")}
    assert names == set(re.findall(r"^\| `([^`]+)`", text, re.M))
