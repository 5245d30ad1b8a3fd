"""Other libraries' names on this library's parts: `from precis.compat import jmp`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
