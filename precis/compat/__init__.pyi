from . import jmp

__all__ = ["jmp"]
