"""A layout and its options as somebody types them."""

from __future__ import annotations

from collections.abc import Sequence

from fedssl.data.layouts import LAYOUTS
from fedssl.data.layouts.layout import COMMON_OPTIONS
from fedssl.errors import ConfigError, did_you_mean

__all__ = ["typed_options"]

_WORDS = {"true": True, "false": False}


def typed_options(layout: str, given: Sequence[str]) -> dict[str, str | bool]:
    """Return the options `key=value` of a layout; `true` and `false` are what they say.

    Raises:
        ConfigError: an unknown layout or option, or one without a value.
    """
    if layout not in LAYOUTS:
        raise ConfigError(
            f"Unknown layout {layout!r}.{did_you_mean(layout, LAYOUTS)} Known: "
            f"{', '.join(LAYOUTS)}."
        )
    known = {**LAYOUTS[layout].options, **COMMON_OPTIONS}
    options: dict[str, str | bool] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(f"Option {text!r} has no value; write key=value.")
        if key not in known:
            raise ConfigError(
                f"The layout {layout!r} has no option {key!r}.{did_you_mean(key, known)} Its "
                f"options: {', '.join(known)}."
            )
        options[key] = _WORDS.get(value, value)
    return options
