"""The command lines in the documentation of EDM: generate.py is generate_images.py here, fid.py calculate_metrics.py.

All but the ablations are taken as they stand.
"""

import shlex

import click
import pytest
from click.testing import CliRunner

from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.commands import calculate_metrics, generate_images

URL = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
CHURN = "--S_churn=40 --S_min=0.05 --S_max=50 --S_noise=1.003"
GENERATE = [  # and what they change of a recipe
    (f"--outdir=out --seeds=0-63 --batch=64 --network={URL}/edm-cifar10-32x32-cond-vp.pkl", {}),
    (f"--outdir=out --steps=18 --network={URL}/edm-cifar10-32x32-cond-vp.pkl", {"num_steps": 18}),
    (f"--outdir=out --steps=40 --network={URL}/edm-ffhq-64x64-uncond-vp.pkl", {"num_steps": 40}),
    (f"--outdir=out --steps=256 {CHURN} --network={URL}/edm-imagenet-64x64-cond-adm.pkl",
     {"num_steps": 256, "sampler": "heun:S_churn=40:S_min=0.05:S_max=50:S_noise=1.003"}),
    (f"--outdir=fid-tmp --seeds=0-49999 --subdirs --network={URL}/edm-cifar10-32x32-cond-vp.pkl", {}),
    (f"--outdir=out --class=7 --sigma_min=0.02 --sigma_max=100 --rho=5 --network={URL}/edm-cifar10-32x32-cond-vp.pkl",
     {"labels": 7, "schedule": "edm:sigma_min=0.02:sigma_max=100:rho=5"}),
    (f"--outdir=out --solver=euler --network={URL}/edm-cifar10-32x32-cond-vp.pkl", {"sampler": "euler"}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "changes"), GENERATE)
def test_generate(line, changes):
    with generate_images.main.make_context("generate_images.py", shlex.split(line)) as context:
        asked = generate_images.ImageOptions.of(context.params)
        made = recipe_from(asked.method)
    found = {name: getattr(made, name) for name in ("num_steps", "labels")}
    found |= {name: str(getattr(made, name)) for name in ("sampler", "schedule")}
    usual = {"num_steps": 32, "labels": "random", "sampler": "heun", "schedule": "edm"}
    assert found == usual | changes
    assert made.net.source == line.split("--network=")[1]
    assert (asked.outdir, asked.subdirs) == (line[9:].split()[0], "--subdirs" in line)
    assert len(asked.seeds) == {"--seeds=0-63": 64, "--seeds=0-49999": 50000}.get(line.split()[1], 4)


@pytest.mark.parametrize(
    "line",
    [
        "--steps=512 --solver=euler --disc=vp --schedule=vp --scaling=vp",
        "--steps=128 --solver=heun --disc=edm --schedule=vp --scaling=vp",
        "--steps=18 --solver=heun --scaling=none",
    ],
)
def test_ablations_are_refused_by_name(line):
    network = f"--network={URL}/baseline/baseline-cifar10-32x32-uncond-vp.pkl"
    result = CliRunner().invoke(generate_images.main, ["--outdir=out", *line.split(), network])
    assert result.exit_code == 2
    name = "--disc" if "--disc" in line else "--scaling"
    assert result.stderr.startswith(f"Error: {name}: EDM's ablations are not made here, only its own sampler")
    assert "leave out --disc, --schedule and --scaling" in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_noise_levels_an_option_of_that_name_is_just_unknown():
    result = CliRunner().invoke(calculate_metrics.main, ["calc", "--disc=vp"])
    assert "--disc: there is no such option" in result.stderr


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("calc --images=fid-tmp --ref=x.npz --num=50000 --seed=0 --batch=64",
         {"images": "fid-tmp", "ref": "x.npz", "num": 50000, "seed": 0, "batch": 64}),
        ("ref --data=datasets/x.zip --dest=x.npz --batch=64", {"images": "datasets/x.zip", "out": "x.npz"}),
    ],
)  # fmt: skip
def test_fid(words, ours):
    name, *rest = words.split()
    command = calculate_metrics.main.commands[name]
    with click.Context(calculate_metrics.main), command.make_context(name, rest) as context:
        assert {name: context.params[name] for name in ours} == ours
