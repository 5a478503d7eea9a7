"""Rows of which the authors published the samples: fetched, scored in one pass, compared; nothing is sampled."""

import functools
import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edm2_guidance.commands import reproduce
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.papers import report, tables
from edm2_guidance.papers.references import ADM_BATCHES, REFERENCES
from tests.small import FEATURE_DIM, register_tiny_extractors

NUM = 60


def run(*words, code=0):
    result = CliRunner().invoke(reproduce.main, list(words))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def server(tmp_path, monkeypatch):
    """One that has samples and reference of 64x64, in place of the authors'; gives the paths that it was asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "cache"))
    register_tiny_extractors(monkeypatch.setattr, tmp_path)
    draws = np.random.RandomState(0)
    moments = {"mu": np.zeros(FEATURE_DIM), "sigma": np.eye(FEATURE_DIM)}
    spatial = {f"{name}_s": array for name, array in moments.items()}
    images = [draws.randint(0, 256, [count, 64, 64, 3], dtype=np.uint8) for count in (NUM, 30)]
    Path("served", "64").mkdir(parents=True)
    np.savez("served/64/admnet_imagenet64.npz", arr_0=images[0])
    np.savez("served/64/VIRTUAL_imagenet64_labeled.npz", arr_0=images[1], **moments, **spatial)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_):
            asked.append(self.path)

    handler = functools.partial(Handler, directory="served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{running.server_port}"
        moved = {**REFERENCES}
        moved["adm64"] = replace(moved["adm64"], source=moved["adm64"].source.replace(ADM_BATCHES, root))
        monkeypatch.setattr(tables, "ADM_BATCHES", root)
        monkeypatch.setattr(tables, "REFERENCES", moved)
        tables.all_rows.cache_clear()
        yield asked
        running.shutdown()
    tables.all_rows.cache_clear()


def test_rows_of_published_samples(server, monkeypatch):
    seen = []
    original = Detector._features
    monkeypatch.setattr(Detector, "_features", lambda self, images: seen.append(len(images)) or original(self, images))
    words = ("run", "adm-64-samples-fid", "adm-64-samples-recall", f"--num={NUM}", "--device=cpu")
    done = run(*words)
    assert done.stdout.count("published samples") == 2
    assert done.stdout.count("(in the ledger)") == 1, "one pass gives the numbers of all its rows"
    assert sum(seen) == NUM + 30
    records = ledger.read("results/ledger.jsonl")
    assert [record["metric"] for record in records] == ["is:adm", "fid", "sfid", "precision:adm", "recall:adm"]
    assert {record["images"]["path"].rsplit("/", 1)[-1] for record in records} == {"admnet_imagenet64.npz"}
    assert run(*words).stdout.count("(in the ledger)") == 2
    assert len(ledger.read("results/ledger.jsonl")) == 5
    assert len({path for path in server if path.endswith(".npz")}) == 2, "each file is fetched once"
    (found,) = json.loads(run("report", "adm-64-samples-fid", "--format=json").stdout)["results"]
    assert (found["labels"], found["all"]) == ("published samples", [records[1]["value"]])
    assert found["published"] is None, "not beside a score of 60 images by other weights"


def test_a_score_of_all_samples_by_the_published_weights_is_a_reproduction(server):
    run("run", "adm-64-samples-fid", f"--num={NUM}", "--device=cpu")
    record = ledger.read("results/ledger.jsonl")[1]
    (row,) = tables.find("adm-64-samples-fid")
    assert any("60 images, not 50,000" in text for text in report.differences(row, record))
    whole = {**record, "num_images": 50000, "flags": [], "detector": {**record["detector"], "published": True}}
    assert report.differences(row, whole) == []
    (compared,) = report.collect([row], [whole])
    assert compared.difference == pytest.approx(100 * (whole["value"] / 2.07 - 1))
    (other,) = tables.find("adm-256-g-samples-fid")
    assert "images admnet_imagenet64.npz" in report.differences(other, whole)


def test_what_is_needed_is_fetched_beforehand(server):
    found = run("run", "adm-64-samples-sfid", "--fetch-only", "--device=cpu").stdout.splitlines()
    assert [Path(path).is_file() for path in found] == [True] * 3, "reference, samples, detector"
    assert [path for path in server if "npz" in path] == [f"/64/{file.name}" for file in files_of("64")]
    server.clear()
    assert "published samples" in run("run", "adm-64-samples-sfid", f"--num={NUM}", "--device=cpu", "--offline").stdout
    assert server == []


def files_of(size):
    return sorted(Path("served", size).iterdir())


def test_a_plan_says_what_is_fetched_and_that_its_size_is_not_known():
    lines = run("plan", "adm-256-g-samples-sfid").stdout
    for name in ("admnet_guided_imagenet256.npz", "VIRTUAL_imagenet256_labeled.npz"):
        assert f"fetch        {ADM_BATCHES}/256/{name} (of unknown size)" in lines
    assert "nothing is sampled" in lines
