"""Matrix ops with a format for every role."""

from precis.ops.backward import CODES
from precis.ops.float8 import FLOAT8
from precis.ops.matrix import matrix_op
from precis.ops.operand import carrier_of
from precis.ops.product import MATRIX_OPS, Dtypes, MatrixOp, backward_dtypes, product_dtypes
from precis.ops.roles import Operand, Roles
from precis.ops.stored_operand import multiplied_as
from precis.ops.tangent import cast_with_tangent, settled

__all__ = [
    "CODES",
    "FLOAT8",
    "MATRIX_OPS",
    "Dtypes",
    "MatrixOp",
    "Operand",
    "Roles",
    "backward_dtypes",
    "carrier_of",
    "cast_with_tangent",
    "matrix_op",
    "multiplied_as",
    "product_dtypes",
    "settled",
]
