"""Disks that are full or read-only, for real: small file systems in memory, where this machine lets us mount them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dnnlib.regular import sha256_of
from edm2_guidance.commands import calculate_metrics, dataset_tool, generate_images, generate_zip
from tests.pictures import picture

ROOT = Path(__file__).resolve().parents[2]
PRETRAINED = ROOT / "edm2_guidance" / "pretrained"
NET = ["--net", str(PRETRAINED / "mnist16-weak.pkl"), "--steps=1", "--batch=32"]


@pytest.fixture
def disk(tmp_path):
    """A disk of so many kB that can be given more, or made read-only."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not sys.platform.startswith("linux") or not mount("size=100k"):
        pytest.skip("mounting needs root on Linux")

    class Disk:
        path = place

        @staticmethod
        def change(options):
            assert mount(f"remount,{options}")

    yield Disk
    subprocess.run(["umount", "-l", str(place)], check=True)


def run(command, *args, code=0):
    result = CliRunner().invoke(command, [*map(str, args)])
    assert result.exit_code == code, result.output
    return result


def fill(path):
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def zip_args(path, num):
    return [*NET, f"--out={path}", f"--num_images={num}", "--shard-size=32"]


@pytest.mark.parametrize(("num", "where"), [(160, "out.zip.shards"), (96, "out.zip")])
def test_a_full_disk_keeps_what_was_finished(disk, tmp_path, num, where):
    """It fills up in a shard, or with the lease of the next one, or when all are there, and are joined."""
    failed = run(generate_zip.main, *zip_args(disk.path / "out.zip", num), code=1)
    assert "No space left on device; what was finished is kept: make room, then run the same command" in failed.stderr
    assert where in failed.stderr.rpartition("Error: ")[2]
    assert not (disk.path / "out.zip").exists()
    assert list(disk.path.rglob("*.tmp")) == []
    assert list(disk.path.rglob("*.claim")) == []
    kept = {path: sha256_of(path) for path in disk.path.rglob("shard-*.zip")}
    assert 1 <= len(kept) <= num // 32
    disk.change("size=1m")
    again = run(generate_zip.main, *zip_args(disk.path / "out.zip", num))
    assert f"{32 * len(kept)}/{num}" in again.stderr
    run(generate_zip.main, *zip_args(tmp_path / "out.zip", num))
    assert (disk.path / "out.zip").read_bytes() == (tmp_path / "out.zip").read_bytes()
    assert [path.name for path in disk.path.iterdir()] == ["out.zip"]


def test_a_full_disk_under_a_folder_of_images(disk):
    args = [*NET, f"--outdir={disk.path / 'out'}", "--seeds=0-127"]
    failed = run(generate_images.main, *args, code=1)
    assert ".png: No space left on device" in failed.stderr
    there = list((disk.path / "out").glob("*.png"))
    assert 1 <= len(there) < 128
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in there)
    disk.change("size=4m")
    run(generate_images.main, *args)
    assert len(list((disk.path / "out").iterdir())) == 129


def test_a_full_disk_under_a_score(disk, tmp_path):
    """Neither is half a line in the ledger, nor is anything scored twice."""
    target = [*NET, "--metrics=fd_mnist", f"--ref={PRETRAINED / 'mnist16-refs.npz'}", "--num=160", "--shard-size=32"]
    args = ["gen", *target, f"--ledger={disk.path / 'ledger.jsonl'}", f"--workdir={tmp_path / 'work'}"]
    filler = disk.path / "filler"
    with pytest.raises(OSError, match="No space"):
        fill(filler)
    failed = run(calculate_metrics.main, *args, code=1)
    assert "No space left on device" in failed.stderr
    filler.unlink()
    result = run(calculate_metrics.main, *args)
    assert "160/160" in result.stderr
    (line,) = (disk.path / "ledger.jsonl").read_text().splitlines()
    assert json.loads(line)["num_images"] == 160


def test_a_read_only_disk_is_refused_before_any_work(disk, tmp_path, monkeypatch):
    (disk.path / "set").mkdir()
    disk.change("ro")
    (tmp_path / "images").mkdir()
    picture(0).save(tmp_path / "images" / "0.png")
    convert = ["convert", f"--source={tmp_path / 'images'}"]
    monkeypatch.setattr("edm2_guidance.sampling.generation.GeneratedImages._make", None)
    place = disk.path
    target = [*NET, "--metrics=fd_mnist", f"--ref={PRETRAINED / 'mnist16-refs.npz'}", "--num=160"]
    for command, args in [
        (generate_zip.main, zip_args(place / "out.zip", 32)),
        (generate_zip.main, zip_args(place / "deeper" / "out.zip", 32)),
        (generate_images.main, [*NET, f"--outdir={place / 'out'}", "--seeds=0-3"]),
        (dataset_tool.main, [*convert, f"--dest={place / 'set'}"]),
        (dataset_tool.main, [*convert, f"--dest={place / 'new' / 'set.zip'}"]),
        (calculate_metrics.main, ["gen", *target, f"--ledger={place / 'ledger.jsonl'}"]),
        (calculate_metrics.main, ["gen", *target, f"--workdir={place / 'work'}", f"--ledger={tmp_path / 'l.jsonl'}"]),
    ]:
        refused = run(command, *args, code=2)
        assert "not writable" in refused.stderr or "Read-only" in refused.stderr, refused.stderr
