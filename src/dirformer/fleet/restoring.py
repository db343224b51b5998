"""`restore` as an order: photos of any tree, and the network that each is restored by."""

from __future__ import annotations

from dataclasses import dataclass, field

from dirformer.fleet.listing import Listing
from dirformer.fleet.order import Maker, Order
from dirformer.fleet.weights import weights_version
from dirformer.ground.errors import ConfigError
from dirformer.ground.places import Place
from dirformer.inference.choice import influences
from dirformer.inference.done import digest_options
from dirformer.inference.jobs import FileOptions
from dirformer.inference.options import RestoreOptions
from dirformer.weights.catalog import CATALOG


@dataclass(frozen=True)
class RestoreOrder(Order):
    """What holds for all photos that are restored. A ConfigError says what a fleet does not do."""

    done = "restored"
    doing = "restoring"

    mask: Place | None = None
    model: str | None = None
    task: str | None = None
    sharp: bool = False
    seed: int = 0
    options: RestoreOptions = field(default_factory=RestoreOptions)
    files: FileOptions = field(default_factory=FileOptions)

    def __post_init__(self) -> None:
        self.out.require_writable()
        if self.files.pages:
            raise ConfigError(
                "--pages is set; a fleet takes the first page: restore pages from a local folder"
            )
        if self.options.samples > 1:
            raise ConfigError("--samples is set; a fleet writes one result a photo: leave --samples out")

    @property
    def overlapping(self) -> int:
        return 0 if self.options.limit is not None else self.workers

    def listing(self) -> Listing:
        return Listing(self, self.files, self.mask)

    def maker(self) -> Maker:
        from dirformer.fleet.restorers import RestoreMaker  # which needs torch

        return RestoreMaker(
            model=self.model,
            task=self.task,
            sharp=self.sharp,
            seed=self.seed,
            options=self.options,
            files=self.files,
            masks=self.mask,
        )

    def digest(self) -> str:
        models = [weights_version(name) for name in ([self.model] if self.model else CATALOG)]
        choice = {"models": models, "task": self.task, "sharp": self.sharp, "masks": self._masks()}
        return digest_options(influences(self.options, self.files, seed=self.seed) | choice)

    def _masks(self) -> list[str]:
        """Return what masks there are: one that changes changes the results of all."""
        if self.mask is None:
            return []
        if (one := self.mask.entry()) is not None:
            return [one.version]
        return sorted(f"{name} {one.version}" for name, one in self.mask.tree())
