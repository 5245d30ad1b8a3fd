"""Matrix ops with a format for every role."""

from precis.ops.matrix import MATRIX_OPS, Operand, Roles, matrix_op
from precis.ops.product import Dtypes, MatrixOp, product_dtypes

__all__ = [
    "MATRIX_OPS",
    "Dtypes",
    "MatrixOp",
    "Operand",
    "Roles",
    "matrix_op",
    "product_dtypes",
]
