"""Loggers that keep what they are given, with the methods of trackers that need a server and are not installed here."""

from typing import Any, ClassVar

from lightning.pytorch.loggers import Logger


class Tracker(Logger):
    """As any: settings, metrics. told: (what, ...) in order, of all trackers of this process."""

    told: ClassVar[list[tuple]] = []

    def __init__(self, name: str | None = None, project: str = "mine"):
        super().__init__()
        self.title, self.project = name, project

    @property
    def name(self) -> str | None:
        return self.title

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.told.append(("settings", params))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.told.append(("metrics", metrics, step))


class Refusing(Tracker):
    """One that does not start."""

    def __init__(self, name: str | None = None):
        raise RuntimeError("no server answers: set URI")


class LikeWandb(Tracker):
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.told.append(("picture", key, [image.shape[2] for image in images], step))


class LikeMLflow(Tracker):
    """Its `experiment` is a client, which is told which run a file is of."""

    run_id = "a1"

    @property
    def experiment(self) -> "Client":
        return Client()


class Client:
    def log_image(self, run_id: str, image: Any, artifact_file: str) -> None:
        Tracker.told.append(("file", run_id, image.shape[2], artifact_file))
