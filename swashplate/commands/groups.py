"""Groups of commands that answer quickly."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)
        for param in params:  # a flag that is None is checked by pydantic, whose import takes longer than all the rest
            if param.default is None and getattr(param, "is_flag", False):
                param.default = False
        return params
