"""The catalogue of network families: which of them a source belongs to, before anything is fetched or opened."""

import pytest

from edm2_guidance.models import adm, edm2, family_of, python


@pytest.mark.parametrize(
    ("source", "family"),
    [
        ("net.py:make", python),
        ("adm-64", adm),
        ("https://host/net.pt", adm),
        ("adm-mnist16", adm),
        ("mnist16-cond", edm2),
        ("pretrained/mnist16-cond.pkl", edm2),
    ],
)
def test_a_source_belongs_to_one_family(source, family):
    assert family_of(source, offline=True) is family


def test_a_file_is_looked_into_where_a_published_name_is_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adm-64").write_bytes(b"\x80\x02.")
    assert family_of("adm-64", offline=True) is edm2
