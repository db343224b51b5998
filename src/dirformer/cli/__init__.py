"""The command line: a literal table of verbs, each one library function and a sentence.

Arguments are checked before torch is imported, so that a typing error is answered at once. Errors of the
package are one line and exit code 2; an interruption is 130.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dirformer import __version__
from dirformer.cli.data import degrade, masks, prepare
from dirformer.cli.doctor import doctor
from dirformer.cli.evaluating import compare, cost, evaluate, report, reproduce
from dirformer.cli.exporting import export
from dirformer.cli.page import serve
from dirformer.cli.restoring import restore
from dirformer.cli.staged import staged
from dirformer.cli.terminal import complain, forgive_terminals, say, visible
from dirformer.cli.training import plan, train
from dirformer.cli.weights import convert, models
from dirformer.ground.errors import DirformerError
from dirformer.ground.places import shown_in

VERBS: dict[str, Callable[..., None]] = {
    "restore": restore,
    "app": serve,
    "train": train,
    "plan": plan,
    "evaluate": evaluate,
    "cost": cost,
    "report": report,
    "compare": compare,
    "reproduce": reproduce,
    "convert": convert,
    "models": models,
    "doctor": doctor,
    "export": export,
    "degrade": degrade,
    "masks": masks,
    "prepare": prepare,
}


class _Verbs(TyperGroup):
    """All verbs; a wrong command line is answered without secrets of addresses and control characters."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = getattr(error, "message", None)
            if isinstance(message, str):
                error.message = visible(shown_in(message))  # type: ignore[attr-defined]
            raise


app = typer.Typer(cls=_Verbs, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Turn the package's errors and Ctrl-C into a line and an exit code."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            with staged(options) as here:
                verb(*arguments, **here)
        except DirformerError as error:
            complain(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(130) from None

    return run


for _name, _verb in VERBS.items():
    app.command(_name)(_guarded(_verb))


def _print_version(value: bool) -> bool:
    if value:
        say(f"dirformer {__version__}")
        raise typer.Exit
    return value


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Image restoration with DiffIR."""


def main() -> None:
    """Run the command line."""
    forgive_terminals()
    try:
        app()
    except SystemExit as end:
        if end.code == 130:
            # Threads may still be at work, and an interpreter that ends around them can abort.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has gone: nobody is left to tell.
        os._exit(0)
    except OSError as error:
        complain(f"output cannot be written: {error.strerror or error}")
        sys.exit(2)
