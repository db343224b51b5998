"""The tasks: one row each. What differs between tasks is a field here, never a branch elsewhere.

A new task is a row in `TASKS` and a preset; a new degradation or protocol, if it needs one, is a row in their
own tables (`docs/develop/extending.md`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from dirformer.ground import checks
from dirformer.ground.errors import ConfigError


@dataclass(frozen=True)
class Task:
    """What a network is made for."""

    name: str
    """As in recipes, weight files and `--task`."""
    title: str
    """For people, as in tables."""
    degradation: str | None
    """How training makes LQ photos from clean ones by default; None: the holes of a mask are the damage."""
    protocol: str
    """Whose metrics a table of this task has (`metrics.protocols`)."""
    score: str
    """The metric that decides in validation (`metrics.metric`)."""
    baseline: str
    """The method that a restored photo is compared with: what a user has without a network."""
    patch: int
    """Side of the released networks' training patches in LQ pixels."""
    border: int = 0
    """GT pixels that validation leaves out along each side."""
    has_mask: bool = False
    """The photo has holes, which a mask marks: the input's fourth channel is the mask (1 = hole)."""

    @property
    def channels(self) -> int:
        """Channels of the network's input: RGB, and the mask where there is one."""
        return 4 if self.has_mask else 3


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="inpainting",
            title="inpainting",
            degradation=None,
            protocol="inpainting",
            score="psnr_hole",
            baseline="telea",
            patch=256,
            has_mask=True,
        ),
        Task(
            name="sr",
            title="super-resolution",
            degradation="bicubic",
            protocol="sr",
            score="psnr_y",
            baseline="bicubic",
            patch=64,
            border=4,
        ),
        Task(
            name="realsr",
            title="real-world restoration",
            degradation="realsr",
            protocol="realsr",
            score="psnr_y",
            baseline="bicubic",
            patch=64,
            border=4,
        ),
        Task(
            name="deblurring",
            title="motion deblurring",
            degradation="motion",
            protocol="deblurring",
            score="psnr",
            baseline="input",
            patch=256,
        ),
    )
}


def find_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        ConfigError: with the nearest valid name.
    """
    if checks.text("task", name) not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no task {name!r}; the nearest is {near!r}, of {', '.join(TASKS)}")
    return TASKS[name]
