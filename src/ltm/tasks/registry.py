"""Tasks by name, each imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm.registry import Registry

if TYPE_CHECKING:
    from ltm.tasks.base import Task

TASKS: Registry[type[Task]] = Registry("task", "ltm.tasks", "ltm.tasks")
register = TASKS.register


def task_class(name: str) -> type[Task]:
    """The class of a task; LtmError with the known names for an unknown one."""
    return TASKS[name]
