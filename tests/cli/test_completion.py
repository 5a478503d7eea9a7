"""What Tab completes, as bash asks for it."""

import importlib

import pytest
from click.testing import CliRunner

from edm2_guidance.cli.completion import prepare


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        ("reproduce", "ru", ["plain,run"]),
        ("generate-images", "--guidance-i", ["plain,--guidance-interval"]),
        ("generate-images", "--labels = ba", ["plain,balanced"]),
        ("generate-images", "--labels =", ["plain,random", "plain,balanced"]),
        ("generate-images", "--labels ba", ["plain,balanced"]),
        ("generate-images", "--preset = mnist16-a", ["plain,mnist16-autog"]),
        ("generate-images", "--steps = 4 --net = mnist16-c", ["plain,mnist16-cond"]),
        ("generate-images", "--net = mnist16-r", ["file,mnist16-r"]),
        ("calculate-metrics", "calc --ref = mnist16-cond", ["file,mnist16-cond"]),
        ("network-tool", "inspect mnist16-w", ["plain,mnist16-weak"]),
        ("generate-images", "--net = networks/x", ["file,networks/x"]),
        ("generate-images", "--outdir = mnist16-c", ["file,mnist16-c"]),
        ("calculate-metrics", "calc mnist16-test-500 mnist16-r", ["plain,mnist16-refs"]),
        ("calculate-metrics", "calc --ref = img5", ["plain,img512"]),
        ("calculate-metrics", "gen --ledger = ", ["file,"]),
    ],
)
def test_completions(command, line, expected):
    main = importlib.import_module(f"edm2_guidance.commands.{command.replace('-', '_')}").main
    prepare(main)
    name = f"edm2-{command}"
    words = line.split(" ")
    environment = {
        f"_{name.upper().replace('-', '_')}_COMPLETE": "bash_complete",
        "COMP_WORDS": f"{name} {line}",
        "COMP_CWORD": str(len(words)),
    }
    done = CliRunner().invoke(main, prog_name=name, env=environment)
    assert done.output.split() == expected
