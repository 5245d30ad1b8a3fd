"""Which numbers exist: formats as data, and `round_to`, which puts an array onto one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
