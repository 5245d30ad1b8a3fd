from .bound import Apply, Bound
from .door import bind, unbind

__all__ = ["Apply", "Bound", "bind", "unbind"]
