"""What this backend really does."""

from precis.doctor.witness import Witness, compiled_roundings

__all__ = ["Witness", "compiled_roundings"]
