"""The four commands that can be sent: what they say they need, what their jobs would run, what they refuse before."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dnnlib.places import EMBEDDED
from edm2_guidance.cli import submit
from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip, reproduce

REFERENCE = str(EMBEDDED / "mnist16-refs.npz")
NETWORKS = [str(EMBEDDED / f"mnist16-{kind}.pkl") for kind in ("cond", "uncond")]
SCORING = [*NETWORKS, REFERENCE, str(EMBEDDED / "mnist16-detector.safetensors")]
COMMANDS = {
    "zip": (generate_zip.main, ["--preset=mnist16-cfg", "--num_images=8", "--out=out/a.zip"], NETWORKS, "status out"),
    "images": (generate_images.main, ["--preset=mnist16-cfg", "--outdir=out"], NETWORKS, "status out"),
    "gen": (
        calculate_metrics.main,
        ["gen", "--preset=mnist16-cfg", "--num=8", "--metrics=fd_mnist", f"--ref={REFERENCE}", "--workdir=out"],
        SCORING,
        "status out",
    ),
    "run": (reproduce.main, ["run", "mnist16-cfg", "--num=8", "--results=out"], SCORING, "status out/work"),
}


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """Run a command whose jobs are kept in invoke.sent."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)

    def submit_array(self, jobs):
        invoke.sent += jobs
        return [type("Job", (), {"job_id": str(number)}) for number in range(len(jobs))]

    monkeypatch.setattr(submit, "_executor", lambda *args: type("Executor", (), {"submit_array": submit_array})())

    def invoke(command, *args, code=0):
        monkeypatch.setattr(sys, "argv", ["script.py", *args])
        result = CliRunner().invoke(command, args)
        assert result.exit_code == code, result.output
        return result

    invoke.sent = []
    return invoke


@pytest.mark.parametrize("name", COMMANDS)
def test_fetch_only(invoke, name):
    command, args, files, _ = COMMANDS[name]
    assert invoke(command, *args, "--fetch-only", "--offline").stdout.splitlines() == files
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_jobs(invoke, name):
    command, args, _, watch = COMMANDS[name]
    said = invoke(command, *args, "--submit=slurm", "--jobs=2", "--steal").stdout
    assert said.startswith("sent 2 jobs: 0, 1\n")
    assert f"reproduce.py {watch}\n" in said
    commands = [[*args, "--steal", f"--worker={n}/2", "--offline"] for n in (0, 1)]
    assert [list(job.command[2:]) for job in invoke.sent] == commands
    assert [path.name for path in Path().iterdir()] == ["results"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_noticed_before(invoke, name, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 999}))
    command, args, _, _ = COMMANDS[name]
    size = {"zip": "8e-06", "images": "2e-06", "gen": "2.05e-06", "run": "2.05e-06"}[name]
    result = invoke(command, *args, "--submit=slurm", code=2)
    assert f"needs about {size} GB" in result.stderr
    assert invoke.sent == []


def test_kept_images_need_room_too(invoke, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10_000}))
    command, args, _, _ = COMMANDS["run"]
    result = invoke(command, *args, "--blocks=4", "--keep-images", "--submit=slurm", code=2)
    assert "out/images/a.zip needs about 1.6e-05 GB" in result.stderr
    invoke(command, *args, "--blocks=4", "--submit=slurm")


def test_jobs_keep_the_images_that_are_there(invoke):
    command, args, _, _ = COMMANDS["images"]
    invoke(command, *args, "--seeds=16")
    invoke(command, *args, "--submit=slurm")
    assert list(invoke.sent.pop().command[-2:]) == ["--worker=0/1", "--offline"]
    assert "empty the folder" in invoke(command, *args, "--overwrite", "--submit=slurm", code=2).stderr


def test_jobs_of_several_nodes_steal(invoke):
    """The first task puts a job back when its time is up, so it has to stay as long as any works."""
    command, args, _, _ = COMMANDS["zip"]
    invoke(command, *args, "--submit=slurm", "--slurm=nodes=2")
    assert list(invoke.sent.pop().command[-3:]) == ["--worker=0/1", "--offline", "--steal"]


def test_jobs_without_gpus_are_noticed(invoke):
    command, args, _, _ = COMMANDS["zip"]
    assert "no GPUs are asked for" in invoke(command, *args, "--submit=slurm").stderr
    for more in ("--gpus-per-node=1", "--device=cpu"):
        assert "no GPUs" not in invoke(command, *args, "--submit=slurm", more).stderr


def test_all_work_is_watched(invoke):
    command, args, _, _ = COMMANDS["run"]
    assert "status out\n" in invoke(command, *args, "--keep-images", "--submit=slurm").stdout


def test_a_zip_of_other_images_is_noticed_before(invoke):
    command, args, _, _ = COMMANDS["zip"]
    Path("out").mkdir()
    Path("out/a.zip").mkdir()
    assert "out/a.zip is a folder" in invoke(command, *args, "--submit=slurm", code=2).stderr


def test_only_folders_of_images_are_sent(invoke):
    result = invoke(generate_images.main, "--preset=mnist16", "--grid=a.png", "--submit=slurm", code=2)
    assert "are for folders of images" in result.stderr


def test_rows_that_cannot_run_are_not_sent(invoke):
    result = invoke(reproduce.main, "run", "mnist16-floor", "--submit=slurm", code=2)
    assert "none of these rows can be sampled" in result.stderr
