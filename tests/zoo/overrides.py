"""What single model types need beyond the common sizes, each with the reason."""

from __future__ import annotations

from typing import Any

# Given to the constructor over the common sizes; dicts are for the configurations inside. `__default__` is given to
# the constructor of the default configuration too.
OVERRIDES: dict[str, dict[str, Any]] = {}

# Types that cannot be built alone, or whose forward does not map token ids to logits without a cache.
UNUSABLE: dict[str, str] = {}
