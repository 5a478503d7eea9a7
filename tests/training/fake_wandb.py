"""What stands for Weights & Biases in tests: a module that needs no account and no server."""

from types import ModuleType, SimpleNamespace

from PIL import Image


class FakeWandb(ModuleType):
    """Keeps what it is told. broken: after so many logs its server is gone."""

    def __init__(self, broken=99):
        super().__init__("wandb")
        self.runs, self.broken = [], broken

    def init(self, **settings):
        run = SimpleNamespace(settings=settings, logs=[], metrics=[], finished=False)

        def log(values):
            if len(run.logs) == self.broken:
                raise ConnectionError("the server\nis gone")
            run.logs.append(values)

        def finish():
            run.finished = True

        run.log, run.finish = log, finish
        run.define_metric = lambda name, **how: run.metrics.append((name, how))
        self.runs.append(run)
        return run

    def Image(self, path):
        return Image.open(path).size
