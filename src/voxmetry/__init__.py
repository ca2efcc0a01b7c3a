"""Voxmetry: voxels in, measurements out.

The public names are declared in `__init__.pyi` and imported when they are first used, so that `import voxmetry` stays
quick.
"""

import lazy_loader

from voxmetry._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
