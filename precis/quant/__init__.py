"""Quantized arrays as values: what they hold, their algebra, and how trees become them and back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
