"""Flax models as pure functions: one call for linen and nnx, and the way back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
