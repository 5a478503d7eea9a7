"""--prompt and --prompts: what they give, what files of prompts may hold, and how prompts are said."""

import json
import shlex
from dataclasses import replace

import pytest
from click.testing import CliRunner

from edm2_guidance.cli.recipe_flags import MAX_PROMPT_OPTIONS, recipe_flags
from edm2_guidance.cli.report import describe
from edm2_guidance.recipe.describe import describe_recipe
from edm2_guidance.recipe.files import ImageSet
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.work.identity import differences


@pytest.fixture
def recipe_of(recipe_command):
    command, made = recipe_command

    def recipe(*words):
        made.clear()
        done = CliRunner().invoke(command, ["--net=mnist16-cond", *words])
        return made[0] if made else done

    return recipe


def test_one_several_or_a_file(recipe_of, tmp_path):
    assert recipe_of().prompts == ()
    assert recipe_of("--prompt=a cat").prompts == ("a cat",)
    assert recipe_of("--prompt=").prompts == ("",)
    assert recipe_of("--prompt=a, b", "--prompt=c", "--class=1").prompts == ("a, b", "c")
    (tmp_path / "p.txt").write_bytes("\ufeffa cat\r\n\r\n<cat-toy> żółw \r\n\r\n".encode())
    made = recipe_of(f"--prompts={tmp_path / 'p.txt'}")
    assert made.prompts == ("a cat", "", "<cat-toy> żółw ")
    assert made.resolved()[0].labels == "balanced"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\n \n", "it has no prompt: need one per line"),
        (b"a\nb\xff\n", "line 2 is not UTF-8 text: save the file as UTF-8"),
        ("a\nb".encode("utf-16-le"), "line 1 is not UTF-8 text"),
        (b"a\n" + b"b" * 10_001, "line 2 has 10,001 characters: at most 10,000"),
        (b"<!DOCTYPE html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer"),
    ],
)
def test_files_that_hold_no_prompts(recipe_of, tmp_path, data, says):
    (tmp_path / "p.txt").write_bytes(data)
    done = recipe_of(f"--prompts={tmp_path / 'p.txt'}")
    assert done.exit_code == 2
    assert f"p.txt: {says}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_contradicts_itself_is_refused(recipe_of, tmp_path):
    for words, says in (
        (["--prompt=a", "--prompts=FILE"], "--prompt and --prompts both say what to draw: give one of them"),
        (["--prompt=a", "--labels=random"], "--labels=random: each seed has its prompt"),
        (["--prompt=a", "--class=1"], "class 1: prompts are the classes, 0 to 0"),
        ([f"--prompts={tmp_path / 'none.txt'}"], "No such file"),
    ):
        done = recipe_of(*words)
        assert (done.exit_code, says in done.stderr) == (2, True), done.stderr


def test_what_was_made_brings_them_again(recipe_of, tmp_path):
    kept = [str(number) for number in range(200)]
    (tmp_path / "p.txt").write_text("\n".join(kept))
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(Recipe("mnist16-cond", prompts=kept).to_json()))
    assert recipe_of(f"--recipe={path}").prompts == tuple(kept)
    assert recipe_of(f"--recipe={path}", "--prompt=a").prompts == ("a",)
    assert "each seed has its prompt" in recipe_of(f"--recipe={path}", "--labels=random").stderr
    ledger = tmp_path / "l.jsonl"
    known = {"count": 200, "sha256": "0" * 64}
    ledger.write_text(json.dumps({"recipe": {**json.loads(path.read_text()), "prompts": known}}))
    assert recipe_of(f"--recipe={ledger}:1").prompts.to_json() == known
    assert (
        recipe_of(f"--recipe={ledger}:1", f"--prompts={tmp_path / 'p.txt'}").hash == recipe_of(f"--recipe={path}").hash
    )


def test_a_recipe_as_options(recipe_of):
    made = recipe_of("--prompt=a 'cat'", "--prompt=$HOME")
    flags = shlex.split(recipe_flags(made.resolved()[0]))
    assert flags[1:3] == ["--prompt=a 'cat'", "--prompt=$HOME"]
    assert recipe_of(*flags[1:]).hash == made.hash
    many = recipe_of(*(f"--prompt={number}" for number in range(MAX_PROMPT_OPTIONS + 1)))
    assert "--prompts=FILE" in recipe_flags(many)


def test_reports_say_them(recipe_of):
    made = recipe_of("--prompt=a cat", "--prompt=b")
    assert describe(made.resolved()[0]).endswith('labels: prompt "a cat" and 1 more, by seed')
    assert describe(recipe_of("--prompt=a cat", "--prompt=b", "--class=1")).endswith('labels: prompt 1, "b"')
    enlarged = replace(made, base=ImageSet("a.zip")).resolved()[0]
    assert describe(enlarged).endswith('labels: prompt "a cat" and 1 more, by stored class')
    stored = replace(made, labels=1).to_json()
    assert describe_recipe(stored) == 'mnist16-cond, prompt 1, "b"'
    assert describe_recipe(made.resolved()[0].to_json()) == 'mnist16-cond, prompt "a cat" and 1 more, by seed'


def test_a_change_of_prompts_is_one_line_also_where_their_hash_stands_for_them():
    known, given = {"prompts": {"count": 200, "sha256": "0" * 64}}, {"prompts": ["a"]}
    (line,) = differences(known, given)
    assert line.startswith('prompts: {"count": 200, ')
    assert line.endswith(' | ["a"]')
