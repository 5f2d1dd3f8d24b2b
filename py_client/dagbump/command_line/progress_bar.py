"""The progress bar of a repair, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


@contextmanager
def progress_bar(to_do: int) -> Iterator[Callable[[int], None] | None]:
    """Yield a function that moves a bar on standard error; None if standard error is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("task instances"), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=to_do)
        yield lambda done: progress.update(bar, completed=done)


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        self.text_format = f"{task.speed or 0:,.0f}/s"
        return super().render(task)
