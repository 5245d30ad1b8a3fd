"""Training under a policy: a step in one line, and the tasks and recipes that sweeps name."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
