"""generate_zip.py as its user runs it: names, contents, resuming after SIGKILL, refusals."""

import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from edm2_guidance.commands.generate_zip import main
from edm2_guidance.sampling.generation import Generation
from tests.interruptions import terminated_at

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tiny_networks, tmp_path):
    def run(*args):
        common = [f"--net={tiny_networks['cond']}", "--steps=3", "--shard-size=4", "--batch=2"]
        if not any(arg.startswith("--out=") for arg in args):
            common.append(f"--zip_dir={tmp_path}")
        return CliRunner().invoke(main, [*common, *args])

    return run


def only_zip(folder):
    (path,) = folder.glob("*.zip")
    return path


def test_contents_and_name(run, tmp_path, tiny_networks):
    result = run("--num_images=10", "--seed=5", f"--gnet={tiny_networks['weak']}", "--guidance=1.5",
                 "--guidance-sigma=0.01,20")  # fmt: skip
    assert result.exit_code == 0, result.output
    path = only_zip(tmp_path)
    assert path.name.startswith("cond-s5-nimg10-g1.50-gi-")
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        recipe = json.loads(file.read("recipe.json"))
        labels = json.loads(file.read("dataset.json"))["labels"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())
    assert names == [f"{seed:06d}.png" for seed in range(5, 15)] + ["dataset.json", "recipe.json"]
    assert [name for name, _ in labels] == names[:10]
    assert recipe["recipe_hash"].startswith(path.stem[-6:])
    assert recipe["recipe"]["guides"][0]["weight"] == "constant:w=1.5"
    assert not list(tmp_path.glob("*.shards"))


def test_two_intervals_do_not_share_a_name(run, tmp_path, tiny_networks):
    for steps in ("0,1", "1,2"):
        assert run("--num_images=2", f"--gnet={tiny_networks['uncond']}", "--guidance=2",
                   f"--guidance_interval={steps}").exit_code == 0  # fmt: skip
    assert len(list(tmp_path.glob("*.zip"))) == 2


def test_defaults_of_the_interval_repository(tiny_networks, tmp_path):
    args = [f"--cond_pkl={tiny_networks['cond']}", f"--uncond_pkl={tiny_networks['uncond']}", "--num_images=1"]
    result = CliRunner().invoke(main, [*args, f"--zip_dir={tmp_path}", "--verbose=True"])
    assert result.exit_code == 0, result.output
    assert "w = 2, at steps 17-22" in result.stderr
    assert "63 main + 12 guide 1" in result.stderr
    assert "-g2.00-gi-" in only_zip(tmp_path).name
    everywhere = CliRunner().invoke(
        main, [*args, f"--zip_dir={tmp_path}", "--guidance_scale=1.2", "--guidance_interval=None"]
    )
    assert everywhere.exit_code == 0, everywhere.output
    assert list(tmp_path.glob("*-g1.20-cfg-*.zip"))


def test_a_folder_for_a_zip_that_has_a_path(run, tmp_path):
    refused = run("--num=2", "--out=a.zip", f"--zip_dir={tmp_path}")
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"Error: --zip_dir={tmp_path} and --out=a.zip: give one of them; --out is a path, such as {tmp_path}/a.zip\n"
    )


def test_an_interrupt_tells_what_is_kept(run, tmp_path, monkeypatch):
    with terminated_at(4, monkeypatch):
        ended = run("--num=10", f"--out={tmp_path}/a.zip")
    assert ended.exit_code == 143
    assert (
        f"Error: ended by SIGTERM: 1 of 3 shards are kept in {tmp_path}/a.zip.shards; the same command" in ended.stderr
    )
    assert run("--num=10", f"--out={tmp_path}/a.zip").exit_code == 0


def test_run_again_does_nothing_and_says_so(run, tmp_path):
    assert run("--num_images=3").exit_code == 0
    before = only_zip(tmp_path).stat().st_mtime_ns
    again = run("--num_images=3")
    assert again.exit_code == 0
    assert "finished before" in again.output
    assert only_zip(tmp_path).stat().st_mtime_ns == before


def test_another_recipe_in_the_same_place_is_refused(run, tmp_path):
    assert run("--num_images=3", f"--out={tmp_path}/a.zip").exit_code == 0
    other = run("--num_images=3", f"--out={tmp_path}/a.zip", "--class=0")
    assert other.exit_code == 2
    assert "labels: random | 0" in other.stderr
    assert other.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--seeds=5-2"], "5-2"),
        (["--num_images=0"], "num"),
        (["--class=10"], "classes 0 to 9"),
        (["--device=cuda:77"], "not available"),
        (["--guidance=2"], "--gnet"),
        (["--num_images=99999999999"], "num"),
        (["--seed=4294967290"], "4294967295"),
        (["--seeds=5,7", "--num_images=70"], "--num-images"),
    ],
)
def test_bad_input(run, tmp_path, args, says):
    result = run(*args)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_decoders_batch_reaches_the_encoder(run, monkeypatch):
    seen = []
    monkeypatch.setattr(Generation, "set_decoder_batch", lambda self, batch: seen.append(batch))
    assert run("--num_images=2", "--batch_size_decoder=3").exit_code == 0
    assert seen == [3]


def test_names_that_are_taken_are_refused_before_any_network_opens(tmp_path):
    (tmp_path / "empty.pkl").write_bytes(b"")
    (tmp_path / "text.zip").write_text("x")
    for out in ("text.zip", "text.zip/a.zip", "."):
        result = CliRunner().invoke(main, [f"--net={tmp_path}/empty.pkl", f"--out={tmp_path}/{out}", "--num_images=2"])
        assert result.exit_code == 2
        assert "empty" not in result.stderr
        assert str(tmp_path) in result.stderr


def test_another_schedule_keeps_the_default_interval_in_noise_levels(tiny_networks, tmp_path):
    args = [f"--cond_pkl={tiny_networks['cond']}", f"--uncond_pkl={tiny_networks['uncond']}", "--num_images=1"]
    result = CliRunner().invoke(main, [*args, "--steps=16", f"--zip_dir={tmp_path}"])
    assert result.exit_code == 0, result.stderr
    assert "steps 17-22 of 32 are taken as sigma in (0.1886, 1.609]" in result.stderr


def test_the_same_words_guide_everywhere_as_in_the_other_scripts(run, tmp_path, tiny_networks):
    result = run("--num_images=1", f"--gnet={tiny_networks['uncond']}", "--guidance=1.5")
    assert result.exit_code == 0, result.stderr
    assert "w = 1.5, at all steps" in result.stderr
    unsaid = run("--num_images=1", f"--gnet={tiny_networks['uncond']}")
    assert unsaid.exit_code == 2
    assert "a guide needs a weight; give it as --guidance=W" in unsaid.stderr


def test_a_zip_under_the_name_of_an_image_is_refused(run, tmp_path):
    result = run("--num_images=1", f"--out={tmp_path / 'a.PNG'}")
    assert result.exit_code == 2
    assert "give a name that ends in .zip" in result.stderr
    assert not list(tmp_path.iterdir())


def test_several_presets_belong_to_another_script(tmp_path):
    result = CliRunner().invoke(main, ["--preset=mnist16,mnist16-cfg", f"--out={tmp_path / 'a.zip'}"])
    assert result.exit_code == 2
    assert "name one preset, or use generate_images.py --grid=FILE.png" in result.stderr
