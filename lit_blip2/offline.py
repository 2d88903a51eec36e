"""Keeps the files of a folder from fetching anything from a hub, and from running code, while they are read.

transformers and peft follow a name in a file to a hub, such as a configuration's `backbone` or the base of an adapter,
and transformers asks on the terminal whether a folder's own code may run. A folder may come from anybody, so it is read
within `offline`. A hub's name that the user gives is looked for before, see `in_cache`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

from lit_blip2.trust import NotAllowedError


@contextmanager
def offline() -> Iterator[None]:
    """Inside, huggingface_hub, transformers and peft read only this disk, and refuse a folder's code without asking.
    Raises NotAllowedError for anything that would have to be fetched."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from transformers import dynamic_module_utils as code

    switches = patch.dict(os.environ, HF_HUB_OFFLINE="1"), patch.object(constants, "HF_HUB_OFFLINE", True)
    with switches[0], switches[1], patch.multiple(code, TIME_OUT_REMOTE_CODE=0, get_class_in_module=_refuse):
        try:
            yield
        except OfflineModeIsEnabled as error:
            address = str(error).removeprefix("Cannot reach ").partition(": ")[0]
            raise NotAllowedError(f"it names {address}, and nothing is fetched for it") from error


def _refuse(name: Any, *_: Any, **__: Any) -> NoReturn:
    raise NotAllowedError(f"it asks for code of its own, {name}, and that is not run")
