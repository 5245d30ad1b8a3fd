"""From a store's files to an answer: in a terminal, in Markdown, and on one page of HTML."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
