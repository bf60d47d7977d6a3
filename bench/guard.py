"""What a method's hooks give, held to the contract of ``bench.method``; and which hook it was that failed.

``Method`` guards every hook of its subclasses. What a hook raises keeps its type and gets a note of where; what it
gives is checked by ``bench.contract``: all that is cheap at every call, what takes a sample once for each object.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import getattr_static
from typing import Any

from torch import Tensor

from bench.contract import HOOKS
from bench.errors import UserError

#: Hooks that a plan needs: an error in one ends a command, and so must be a line.
OF_THE_PLAN = ("__init__", "skip", "default_schedule", "expected_cost")


class ContractError(UserError, TypeError):
    """A hook gave something else than ``bench.method`` says."""


def guard(cls: type) -> None:
    """Guard every hook of a subclass of ``Method``, its own or inherited, that is not guarded yet."""
    for name in HOOKS:
        hook = getattr_static(cls, name)
        function = getattr(hook, "__func__", hook)
        if callable(function) and not hasattr(function, "guarded"):
            kept = _guarded(name, _one_update(function) if name == "step" else function)
            setattr(cls, name, classmethod(kept) if isinstance(hook, classmethod) else kept)


def _guarded(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of that name, which is checked and named where it fails."""
    check = HOOKS[name]

    @wraps(hook)
    def call(method: Any, *arguments: Any, **named: Any) -> Any:
        try:
            value = hook(method, *arguments, **named)
            fault = check(method, value, *arguments, **named)
        except SystemExit as error:
            raise ContractError(f"{_place(method, name)}: it would end the process ({error!r})") from error
        except UserError:
            raise
        except Exception as error:
            if name in OF_THE_PLAN:
                raise ContractError(f"{_place(method, name)}: {reason(error)}") from error
            if not _noted(error):  # the innermost hook says where
                error.add_note(f"in {_place(method, name)}")
            raise
        if fault:
            raise ContractError(f"{_place(method, name)}: {fault}")
        return value

    call.guarded = True  # type: ignore[attr-defined]
    return call


def _one_update(step: Callable[..., Any]) -> Callable[..., Any]:
    """The hook ``step``, which makes exactly one update of the decoder: else its method had more or less training."""

    @wraps(step)
    def call(method: Any, ctx: Any, x: Tensor) -> Any:
        before = _decoder_updates(ctx)
        loss = step(method, ctx, x)
        if (made := _decoder_updates(ctx) - before) != 1 and hasattr(ctx, "updates_by_kind"):
            raise ContractError(f"{_place(method, 'step')}: exactly one update of the decoder expected, got {made}")
        return loss

    return call


def _decoder_updates(ctx: Any) -> int:
    return sum(getattr(ctx, "updates_by_kind", {}).values()) - getattr(ctx, "extra_updates", 0)


def _place(method: Any, hook: str) -> str:
    name = method.name or (method if isinstance(method, type) else type(method)).__name__
    return f"method '{name}', hook '{hook}'"


def _noted(error: BaseException) -> str:
    """``in method …, hook …``, where that is known of an error."""
    return next((note for note in getattr(error, "__notes__", ()) if note.startswith("in method '")), "")


def reason(error: BaseException) -> str:
    """What went wrong, in one line: the kind of error, its message, and in which hook of a method, if in one."""
    try:
        text = next(iter(str(error).strip().splitlines()), "")
    except Exception:  # of an error that cannot say what it is
        text = ""
    where = f" ({note})" if (note := _noted(error)) else ""
    return str(UserError(f"{type(error).__name__}{text and ': '}{text}{where}"))  # without what cannot be printed
