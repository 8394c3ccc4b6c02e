"""The packages of ftlab's wheel, which pyproject.toml cannot express: assets/ becomes ftlab/assets.

All else about the wheel stands in pyproject.toml.
"""

import shutil

from setuptools import find_namespace_packages, find_packages, setup

# Files that were deleted since an earlier build would go into the wheel again.
shutil.rmtree("build/lib", ignore_errors=True)

assets = [f"ftlab.assets.{folder}" for folder in find_namespace_packages("assets")]
setup(
    packages=[*find_packages(include=["ftlab", "ftlab.*"]), "ftlab.assets", *assets],
    package_dir={"ftlab.assets": "assets"},
)
