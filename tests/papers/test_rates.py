"""Measured rates: between two sizes, kept and read again, chosen by device, form and precision, and in plans."""

import json
import math

import pytest
from click.testing import CliRunner

from dnnlib.inference import Inference
from dnnlib.processor import processor_name
from edm2_guidance.commands.reproduce import main
from edm2_guidance.papers.costs import cost
from edm2_guidance.papers.rates import Rates, choose_rates, keep_rates, read_rates, store
from edm2_guidance.papers.tables import find

GPU = Rates(
    [(45.5, 100.0), (102.2, 200.0)], "measured on G, prepared, float16", decoder=50.0, extractors={"fid": 1000.0},
    device="NVIDIA G", kind="cuda", form="prepared", precision="float16",
)  # fmt: skip
CPU = Rates([(0.02, 0.01)], "here", device=processor_name(), kind="cpu", form="prepared", precision="float32")


def plan(*words):
    return CliRunner().invoke(main, ["plan", *words])


def test_between_two_sizes_a_rate_is_interpolated_in_logarithms():
    assert GPU.network(math.sqrt(45.5 * 102.2)) == pytest.approx(math.sqrt(100 * 200))
    assert [GPU.network(size) for size in (1, 45.5, 102.2, 1e6)] == pytest.approx([100, 100, 200, 200])


def test_hours_are_of_all_networks_the_decoder_and_the_features():
    row = find("edm2-img512-xxl-interval-fid")[0]
    one, eight = cost(row, rates=GPU), cost(row, rates=GPU, gpus=8)
    seconds = 63 * 0.5521 / 200 + 12 * 0.0455 / 100 + 1.2609 / 50 + 1 / 1000
    assert one.hours == pytest.approx(seconds * 150_000 / 3600)
    assert eight.hours == pytest.approx(one.hours / 8)
    assert one.throughput == pytest.approx(one.tflop / seconds)


def test_what_is_kept_is_read_and_replaced_by_its_equal_alone():
    keep_rates([GPU, CPU], [])
    assert [each.key for each in read_rates()] == [GPU.key, CPU.key]
    faster = Rates([(1.0, 7.0)], "anew", device=GPU.device, kind="cuda", form="prepared", precision="float16")
    keep_rates([faster], read_rates())
    assert [each.source for each in read_rates()] == ["here", "anew"]


def test_a_gpu_that_was_measured_comes_before_this_processor():
    assert choose_rates([GPU, CPU]) is GPU
    assert choose_rates([CPU, GPU], inference=Inference(precision="float32")) is None, "the GPU was not measured so"
    assert choose_rates([CPU, GPU], kind=processor_name().lower()) is CPU
    assert choose_rates([]) is None


def test_plan_says_which_rates_it_used():
    name = "edm2-img512-xxl-interval-fid"
    assert "40 TFLOP/s (assumed, one A100)" in plan(name).output
    keep_rates([GPU, CPU], [])
    assert "TFLOP/s (measured on G, prepared, float16)" in plan(name).output
    assert "4.76 hours at 8 x 40 TFLOP/s (given)" in plan(name, "--throughput=40", "--gpus=8").output
    refused = plan(name, "--form=compiled")
    assert refused.exit_code == 2
    assert "there is: NVIDIA G prepared float16" in refused.output


def warned():
    """What a plan says of a damaged store."""
    result = plan("edm2-img512-xxl-interval-fid")
    assert result.exit_code == 0
    assert "(assumed, one A100)" in result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: measured rates are left out: ")
    return line


@pytest.mark.parametrize("content", [b"", b"[1", b"{}", b'{"format": "edm2-guidance rates 1", "rates": [{}]}'])
def test_a_damaged_store_is_left_out_with_a_warning(content):
    keep_rates([GPU], [])
    store().write_bytes(content)
    warned()


@pytest.mark.parametrize(
    "damage",
    [
        {"networks": [[45.5, -1]]}, {"networks": [[45.5, "fast"]]}, {"networks": [45.5]}, {"networks": None},
        {"extractors": [1]}, {"extractors": None}, {"extractors": {"fid": "fast"}}, {"decoder": 0}, {"decoder": []},
        {"kind": 7}, {"more": 1},
    ],
)  # fmt: skip
def test_an_entry_of_another_form_is_no_rate(damage):
    keep_rates([GPU], [])
    kept = json.loads(store().read_bytes())
    kept["rates"][0] |= damage
    store().write_text(json.dumps(kept))
    assert f"{store()} is no store of rates that this version reads; python -m benchmarks --calibrate" in warned()
