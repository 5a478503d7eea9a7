"""The reference repositories' documented command lines and options, as far as their scripts exist here."""

import csv
import importlib
import shlex
from pathlib import Path

import click
import pytest

DATA = Path(__file__).parents[1] / "data"
URL = "https://nvlabs-fi-cdn.nvidia.com/edm2"
SCRIPTS = ("generate_images.py", "generate_zip.py", "calculate_metrics.py", "train_edm2.py", "dataset_tool.py")
SCRIPTS += ("reconstruct_phema.py", "count_flops.py")

LINES = f"""
generate_images.py --preset=edm2-img512-s-guid-dino --outdir=out
generate_images.py --net={URL}/posthoc-reconstructions/edm2-img512-xxl-0939524-0.015.pkl --gnet={URL}/posthoc-reconstructions/edm2-img512-xs-uncond-2147483-0.015.pkl --guidance=1.7 --outdir=out
generate_images.py --preset=edm2-img512-s-guid-fid --outdir=out --subdirs --seeds=0-49999
calculate_metrics.py calc --images=out --ref={URL}/dataset-refs/img512.pkl
calculate_metrics.py gen --net={URL}/posthoc-reconstructions/edm2-img512-s-2147483-0.130.pkl --ref={URL}/dataset-refs/img512.pkl --seed=123456789
calculate_metrics.py ref --data=datasets/img512.zip --dest=dataset-refs/img512.pkl
train_edm2.py --outdir=training-runs/00000-edm2-img512-xs --data=datasets/img512-sd.zip --preset=edm2-img512-xs --batch-gpu=32
generate_images.py --preset=edm2-img64-s-fid --outdir=out --subdirs --seeds=0-49999
generate_images.py --preset=edm2-img512-xxl-guid-fid --outdir=out --subdirs --seeds=0-49999
count_flops.py {URL}/posthoc-reconstructions/edm2-img512-s-2147483-0.130.pkl
reconstruct_phema.py --indir=raw-snapshots/edm2-img512-xs --outdir=out --outstd=0.150
reconstruct_phema.py --indir=raw-snapshots/edm2-img512-xs --outdir=out --outstd=0.010,0.015,...,0.250 --batch=8
reconstruct_phema.py --indir=training-runs/00000-edm2-img512-xs --outdir=out --outstd=0.150
calculate_metrics.py ref --data=datasets/my-dataset.zip --dest=fid-refs/my-dataset.pkl
generate_images.py --cond_pkl=A --uncond_pkl=B --figs=all
generate_images.py --cond_pkl=A --uncond_pkl=B --figs=fig5,fig6
generate_zip.py --cond_pkl=A --uncond_pkl=B --zip_dir=C --guidance_interval="[17, 22]" --guidance_scale=2.0
generate_zip.py --cond_pkl=A --uncond_pkl=B --zip_dir=C --guidance_scale=1.2 --guidance_interval=None
generate_zip.py --cond_pkl=A --uncond_pkl=B --zip_dir=C --guidance_interval="[13, 19]" --guidance_scale=2.9
generate_zip.py --cond_pkl=A --uncond_pkl=B --zip_dir=C --guidance_scale=1.7 --guidance_interval=None
calculate_metrics.py --gen_zip=A --ref_path=B
calculate_metrics.py --gen_zip=A --ref_path=B --metric=fd_dinov2
""".strip().splitlines()  # noqa: E501


def command(script, subcommand=""):
    main = importlib.import_module(script.removesuffix(".py")).main
    return main.commands[subcommand] if subcommand else main


@pytest.mark.parametrize("line", LINES)
def test_documented_lines_parse(line):
    script, *words = shlex.split(line)
    main = command(script)
    if isinstance(main, click.Group) and not words[0].startswith("-"):
        main, words = main.commands[words[0]], words[1:]
    main.make_context(script, words)


def reference_options():
    with open(DATA / "reference_options.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["script"] in SCRIPTS and row["option"].startswith("-"):
                yield row


@pytest.mark.parametrize(
    "row", list(reference_options()), ids=lambda row: f"{row['script']} {row['subcommand']} {row['option']}"
)
def test_every_option_is_there_with_its_default(row):
    names = {name.replace("_", "-") for name in row["option"].split()}
    found = [
        parameter
        for parameter in command(row["script"], row["subcommand"]).params
        if names <= {name.replace("_", "-") for name in parameter.opts}
    ]
    assert found, f"{row['option']} of {row['script']} {row['subcommand']}"
    (parameter,) = found
    context = click.Context(command(row["script"], row["subcommand"]))
    ours = parameter.get_default(context)
    plain = isinstance(ours, str | int | float | bool | list) and not parameter.multiple
    if row["required"] or row["default"] in ("", "None") or not plain:
        return  # what an absent option means is tested where its meaning is
    assert parameter.type_cast_value(context, ours) == parameter.type_cast_value(context, row["default"])
