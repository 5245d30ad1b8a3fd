"""Matrix ops with a format for every role."""

from precis.ops.matrix import MATRIX_OPS, Operand, Roles, matrix_op
from precis.ops.product import MatrixOp

__all__ = ["MATRIX_OPS", "MatrixOp", "Operand", "Roles", "matrix_op"]
