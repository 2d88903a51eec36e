"""While the files of a folder are read, no hub is asked and no code of theirs is run, whatever they name.

transformers and peft follow a name that stands in a file to a hub, as a configuration's `backbone` or the base of an
adapter, and transformers asks on the terminal whether a folder's own code may run. A folder may be anybody's: what is
read from one is read within `offline`. What a user names as a hub's is looked for before, see `in_cache`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

from lit_blip2.trust import NotAllowedError


@contextmanager
def offline() -> Iterator[None]:
    """Within it huggingface_hub, transformers and peft read this disk alone, and take a folder's code for what may not
    run, without a question. Raises NotAllowedError for what would have to be fetched."""
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
