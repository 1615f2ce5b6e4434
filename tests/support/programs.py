"""Programs that some tests need and that not every machine has."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(program: str, hint: str = "") -> str:
    """The path of a program: the one that the variable of its name in capitals names (`$HELM`), else from the PATH.

    Where there is none the test is skipped and says so, with `hint` on how to get it; in CI it fails.
    """
    variable = program.upper().replace("-", "_")
    path = shutil.which(os.environ.get(variable) or program)
    if path is not None:
        return path
    missing = f"{program} is neither on the PATH nor named by ${variable}{hint and f': {hint}'}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
