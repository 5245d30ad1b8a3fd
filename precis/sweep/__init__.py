"""Sweeps: from a file with a question to a folder with the records. Importing it needs no jax."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
