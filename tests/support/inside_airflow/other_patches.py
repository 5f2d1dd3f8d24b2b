"""Somebody else's plugin, which patches functions of Airflow's in one way or another, and counts its calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import unwrap
from typing import Any

from airflow.utils.retries import retry_db_transaction

calls: list[str] = []


def patch(owner: type, name: str, how: str) -> None:
    """Patch a function or a class method; how is one of `WAYS`."""
    stock = vars(owner)[name]
    if isinstance(stock, classmethod):
        setattr(owner, name, classmethod(WAYS[how](stock.__func__)))
    else:
        setattr(owner, name, WAYS[how](stock))


def wrapped(stock: Callable[..., Any]) -> Callable[..., Any]:
    return wraps(stock)(replaced(stock))


def replaced(stock: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        calls.append(stock.__name__)
        return stock(*args, **kwargs)

    return function


def retried(stock: Callable[..., Any]) -> Any:
    return retry_db_transaction(wrapped(unwrap(stock)))


def cyclic(stock: Callable[..., Any]) -> Any:
    """Wrap a function in a broken wrapper, which claims to wrap itself."""
    function: Any = replaced(stock)
    function.__wrapped__ = function
    return function


class Proxy:
    """A proxy as wrapt makes it: it has the attributes of the function."""

    def __init__(self, wrapped: Any) -> None:
        self.__wrapped__ = wrapped

    @property
    def __class__(self) -> type:
        return type(self.__wrapped__)

    @__class__.setter
    def __class__(self, _: type) -> None:
        raise AttributeError("__class__")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __get__(self, instance: object, owner: type) -> Proxy:
        return Proxy(self.__wrapped__.__get__(instance, owner))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls.append(self.__wrapped__.__name__)
        return self.__wrapped__(*args, **kwargs)


WAYS = {"wrapped": wrapped, "replaced": replaced, "retried": retried, "cyclic": cyclic, "proxied": Proxy}
