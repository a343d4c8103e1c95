"""The annotated sample of a configuration file.

Pure: it is made from the models, so it cannot be out of date.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from gateway.config import Config

__all__ = ["describe"]


def describe() -> str:
    """Return the annotated sample of a configuration file, every value at its default."""
    lines = ["# direct-gateway configuration. Every value shown is the default.", ""]
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += [f"[{name}]  # {(section.__doc__ or '').splitlines()[0]}"]
            for key, item in section.model_fields.items():
                lines.append(f"# {key} = {_toml(item.default)}  # {item.description}")
        else:
            lines += [f"[{name}]  # {field.description}"]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return str([str(item) for item in value]).replace("'", '"')
    text = getattr(value, "value", value)
    return f'"{"" if text is None else text}"'
