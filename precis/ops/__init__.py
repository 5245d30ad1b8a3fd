"""Matrix ops with a format for every role."""

from precis.ops.matrix import Operand, Roles, matrix_op
from precis.ops.product import MATRIX_OPS, Dtypes, MatrixOp, backward_dtypes, product_dtypes

__all__ = [
    "MATRIX_OPS",
    "Dtypes",
    "MatrixOp",
    "Operand",
    "Roles",
    "backward_dtypes",
    "matrix_op",
    "product_dtypes",
]
