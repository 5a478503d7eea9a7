"""Persistent classes: what they record, what their pickles say, and that only trust executes a pickle's source."""

import copy
import hashlib
import importlib.util
import pickle
import sys

import pytest
import torch

from torch_utils import misc, persistence
from torch_utils.safe_pickle import loads

SOURCE = """
import torch
from torch_utils import persistence

@persistence.persistent_class
class Layer(torch.nn.Module):
    def __init__(self, width, names=("a",), *, scale=1.0):
        super().__init__()
        self.scale = scale
        self.weight = torch.nn.Parameter(torch.arange(float(width)))

    def forward(self, x):
        return x * self.weight * self.scale

@persistence.persistent_class
class Net(Layer):
    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.child = Layer(width + 1)

@persistence.persistent_class
class Secretive:
    def __init__(self, password):
        self.password = password

    def __getstate__(self):
        return {**self.__dict__, "password": None}

    def __setstate__(self, state):
        self.__dict__.update(state, restored=True)

class Undecorated(Layer):
    pass

@persistence.persistent_class
class Outer:
    @persistence.persistent_class
    class Inner:
        pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module above, imported from a file."""
    path = tmp_path / "persistent_example.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("persistent_example", path)
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "persistent_example", loaded)
    spec.loader.exec_module(loaded)
    yield loaded
    persistence._source_of_module.pop("persistent_example", None)
    for key in [key for key, cls in persistence._class_of_source.items() if cls.__module__ == "persistent_example"]:
        del persistence._class_of_source[key]


def test_constructor_arguments_are_recorded_as_they_were(module):
    names = ["x"]
    layer = module.Layer(3, names, scale=2.0)
    names.append("y")
    assert layer.init_args == (3, ["x"])
    assert layer.init_kwargs == {"scale": 2.0}
    layer.init_kwargs["scale"] = 5.0
    assert layer.init_kwargs == {"scale": 2.0}


def test_a_subclass_records_its_own_arguments(module):
    net = module.Net(2, scale=3.0)
    assert (net.init_args, net.init_kwargs) == ((2,), {"scale": 3.0})
    assert (net.child.init_args, net.child.init_kwargs) == ((3,), {})


def test_the_class_stays_itself(module):
    assert module.Net.__name__ == "Net"
    assert issubclass(module.Net, module.Layer)
    assert persistence.is_persistent(module.Net)
    assert persistence.is_persistent(module.Net(1))
    assert not persistence.is_persistent(module.Undecorated(1))
    assert not persistence.is_persistent(3)


def test_pickle_says_what_the_format_says(module):
    record = loads(pickle.dumps(module.Net(2, scale=3.0), 4))
    assert (record.class_name, record.version, record.module_src) == ("Net", 6, SOURCE)
    assert record.source_sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert record.state["_init_args"] == (2,)
    assert record.state["_init_kwargs"] == {"scale": 3.0}
    assert record.state["scale"] == 3.0
    child = record.state["_modules"]["child"]
    assert (child.class_name, child.state["_init_args"]) == ("Layer", (3,))
    assert child.module_src is record.module_src  # stored once


def test_round_trip_here_executes_nothing(module):
    net = module.Net(2, scale=3.0)
    again = pickle.loads(pickle.dumps(net))
    assert type(again) is module.Net
    assert type(again.child) is module.Layer
    assert torch.equal(again(torch.ones(2)), net(torch.ones(2)))


def test_copies_are_of_the_same_class_and_independent(module):
    net = module.Net(2)
    deep, shallow = copy.deepcopy(net), copy.copy(net)
    with torch.no_grad():
        net.weight.fill_(7)
    assert type(deep) is type(shallow) is module.Net
    assert deep.weight.tolist() == [0, 1]
    assert shallow.weight.tolist() == [7, 7]
    assert deep.init_args == (2,)


def test_own_state_methods_are_used(module):
    again = pickle.loads(pickle.dumps(module.Secretive("xyzzy")))
    assert again.password is None
    assert again.restored


def test_what_no_reader_could_rebuild_is_not_written(module):
    with pytest.raises(TypeError, match="decorate it"):
        pickle.dumps(module.Undecorated(1))
    with pytest.raises(TypeError, match="top level"):
        pickle.dumps(module.Outer.Inner())


def test_a_class_without_source_is_not_written():
    scope = {"__name__": "module_without_source"}
    exec("class Lost:\n    pass\n", scope)
    with pytest.raises(TypeError, match="no source"):
        pickle.dumps(persistence.persistent_class(scope["Lost"])())


def meta(source, class_name="Thing", **changes):
    return {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": {"a": 1}, **changes}


def test_foreign_source_is_refused_without_trust(tmp_path):
    source = f"open({str(tmp_path / 'marker')!r}, 'w').close()\nclass Thing:\n    pass\n"
    with pytest.raises(ValueError, match="refused to execute the source text of class Thing"):
        persistence._reconstruct_persistent_obj(meta(source))
    assert not (tmp_path / "marker").exists()
    with persistence.trusting():
        thing = persistence._reconstruct_persistent_obj(meta(source))
        other = persistence._reconstruct_persistent_obj(meta(source))
    assert (tmp_path / "marker").exists()
    assert (thing.a, type(thing).__name__) == (1, "Thing")
    assert type(other) is type(thing)  # the text was executed once
    del sys.modules[type(thing).__module__]


def test_trust_ends_with_the_block_and_with_an_error():
    with pytest.raises(ZeroDivisionError), persistence.trusting():
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="refused"):
        persistence._reconstruct_persistent_obj(meta("class Thing:\n    pass\n"))


def test_source_that_fails_leaves_no_module_behind():
    before = set(sys.modules)
    with persistence.trusting(), pytest.raises(ZeroDivisionError):
        persistence._reconstruct_persistent_obj(meta("1 / 0"))
    assert set(sys.modules) == before


def test_trusted_classes_can_be_written_again():
    source = "from torch_utils import persistence\n@persistence.persistent_class\nclass Thing:\n    pass\n"
    with persistence.trusting():
        thing = persistence._reconstruct_persistent_obj(meta(source))
    record = loads(pickle.dumps(thing, 4))
    assert (record.class_name, record.module_src, record.state) == ("Thing", source, {"a": 1})
    del sys.modules[type(thing).__module__]


@pytest.mark.parametrize("changes", [{"type": "function"}, {"version": 5}])
def test_other_kinds_of_persistent_objects_are_refused(changes):
    with pytest.raises(ValueError, match="only version 6 is known"), persistence.trusting():
        persistence._reconstruct_persistent_obj(meta("1 / 0", **changes))


def test_const_like_follows_its_reference():
    """What embedded sources of EDM2 ask of torch_utils.misc."""
    ref = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(misc.const_like(ref, [1, 2]), torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert misc.const_like(ref, 3).shape == ()
    assert misc.const_like(ref, 3, shape=[2, 2]).tolist() == [[3, 3], [3, 3]]
    assert misc.const_like(ref, 3, dtype=torch.int32).dtype == torch.int32
    assert misc.constant([1, 2]).dtype == torch.get_default_dtype()
