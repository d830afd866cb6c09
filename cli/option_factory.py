"""Command line options from the option classes, and a command whose help is in groups.

Names, defaults, ranges, choices and help come from ``brainseg_tf.options``: there is no second place to change them.
"""

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal

import click

from brainseg_tf.options import help_of

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class OddRange(click.IntRange):
    """An odd number: an even one has no middle voxel."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if number % 2 == 0:
            self.fail(f"{number} has no middle voxel; give an odd number", param, ctx)
        return number


class FiniteRange(click.FloatRange):
    """A number in a range: ``nan`` is in every range for click, and ``inf`` in those without an end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class GroupedOption(click.Option):
    """An option that belongs to a group of the help.

    Args:
        group: the heading.
        advanced: whether only ``--help-all`` shows it.
    """

    def __init__(
        self,
        *args: Any,
        group: str = "Other",
        advanced: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.group, self.advanced = group, advanced


class GroupedCommand(click.Command):
    """A command whose help shows its options in groups, and the rarely used ones with ``--help-all`` only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if any(isinstance(one, GroupedOption) and one.advanced for one in self.params):
            self.params.append(
                GroupedOption(
                    ["--help-all"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_show_all,
                    help="Show all options and exit.",
                )
            )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        hidden = 0
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is None:
                continue
            if isinstance(option, GroupedOption) and option.advanced and not ctx.meta.get(_ALL):
                hidden += 1
                continue
            groups.setdefault(getattr(option, "group", "Other"), []).append(record)
        # What belongs nowhere else comes last.
        for group in sorted(groups, key=lambda name: name == "Other"):
            with formatter.section(f"{group} options" if group == "Other" else group):
                formatter.write_dl(groups[group])
        if hidden:
            formatter.write_paragraph()
            formatter.write_text(f"--help-all shows {hidden} more option{'s' * (hidden > 1)}.")


_ALL = "brainseg_tf.help_all"


def _show_all(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta[_ALL] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()


def option(*names: str, group: str, advanced: bool = False, **kwargs: Any) -> Decorator:
    """``click.option`` with a group of the help."""
    return click.option(*names, cls=GroupedOption, group=group, advanced=advanced, **kwargs)


def from_field(
    options: type,
    field: str,
    *names: str,
    group: str,
    default: Any = MISSING,
    default_text: str | None = None,
    **kwargs: Any,
) -> Decorator:
    """An option for a field of an option class.

    Args:
        options: the class.
        field: its name.
        names: flags and, without dashes, the parameter; ``--field-name`` if there are none.
        group: of the help.
        default: the default; the field's own if not given.
        default_text: words for the default in the help, if the value says little.
        kwargs: of ``GroupedOption``.
    """
    found = next(one for one in fields(options) if one.name == field)
    if default is MISSING:
        default = found.default
    kind = typing.get_type_hints(options)[field]
    flags = names or (f"--{field.replace('_', '-')}",)
    words = help_of(options, field)
    if default_text is not None:
        words = f"{words}  [default: {default_text}]"
    elif default not in (None, False, ()):
        kwargs["show_default"] = True
    chosen = kwargs.pop("type", None) or _type(kind, found.metadata)
    if chosen is bool:
        on = flags[0]
        text = f"{on}/--no-{on.removeprefix('--')}" if default is None else on
        return option(text, *flags[1:], group=group, is_flag=True, default=default, help=words, **kwargs)
    return option(*flags, group=group, type=chosen, default=default, help=words, **kwargs)


def _type(kind: Any, metadata: Mapping[str, Any]) -> Any:
    """The click type of an annotation: a bool, a choice, or a number in its range."""
    if isinstance(kind, types.UnionType):
        (kind,) = [one for one in typing.get_args(kind) if one is not type(None)]
    if typing.get_origin(kind) is Literal:
        return click.Choice(typing.get_args(kind))
    least, most = metadata["least"], metadata["most"]
    if kind is int:
        return (OddRange if metadata["odd"] else click.IntRange)(least, most)
    if kind is float:
        return FiniteRange(least, most)
    return bool if kind is bool else str


def apply(decorators: Iterable[Decorator]) -> Decorator:
    """One decorator of several; the help shows them in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(list(decorators)):
            command = one(command)
        return command

    return decorate
