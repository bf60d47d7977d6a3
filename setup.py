"""The wheel has the folder ``methods/`` as ``bench.methods``; everything else is in ``pyproject.toml``.

An editable installation is the checkout on ``sys.path``, where ``bench/__init__.py`` finds the folder. If it were a
package of ``pyproject.toml``, setuptools would install an import hook, which any folder ``bench/`` hides.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithMethods(build_py):
    """Copy the modules of the packages, and those of ``methods/``."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if not self.editable_mode:
            methods = ["bench.methods", *(f"bench.methods.{name}" for name in find_packages("methods"))]
            self.packages, self.package_dir["bench.methods"] = [*self.packages, *methods], "methods"


setup(cmdclass={"build_py": BuildWithMethods})
