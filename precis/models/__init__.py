"""Models as any user writes them: no dtypes in them, which are the policy's to say."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
