"""The base of the types of options: a text becomes a value."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    _Base = click.ParamType[Any]  # newer versions of click alone can be asked for its parameter when they run
else:
    _Base = click.ParamType


class ParamType(_Base):
    """A type that says how a text is parsed. name: in capitals, the option's metavar."""

    @abstractmethod
    def parse(self, text: str) -> Any:
        """What the text stands for, spaces around it removed: each type says which class that is.

        ValueError that says what to give instead.
        """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click calls it: with a text, or with what was made of one."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value.strip())
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Name(ParamType):
    """A name, as it is; `list` prints which there are, and ends."""

    name = "text"

    def __init__(self, listing: Callable[[], str]) -> None:
        """listing: a line for each, which begins with the name."""
        self.listing = listing

    def parse(self, text: str) -> str:
        show_if_list(text, self.listing)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so."""
        names = (line.split()[0] for line in self.listing().splitlines())
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def show_if_list(text: str, listing: Callable[[], str]) -> None:
    """Print which there are, and end the command, where the text is `list`."""
    context = click.get_current_context(silent=True)
    if text == "list" and context is not None:
        click.echo(listing())
        context.exit()
