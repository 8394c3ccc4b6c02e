"""The packages of ftlab's wheel, which pyproject.toml cannot express: assets/ becomes ftlab/assets.

All else about the wheel stands in pyproject.toml.
"""

import shutil

from setuptools import find_packages, setup

# Files that were deleted since an earlier build would go into the wheel again.
shutil.rmtree("build/lib", ignore_errors=True)

setup(
    packages=[*find_packages(include=["ftlab", "ftlab.*"]), "ftlab.assets"],
    package_dir={"ftlab.assets": "assets"},
)
