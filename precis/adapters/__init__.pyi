from .bound import Apply, Bound
from .call import call_of
from .door import bind, unbind

__all__ = ["Apply", "Bound", "bind", "call_of", "unbind"]
